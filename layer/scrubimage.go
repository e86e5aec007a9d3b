package layer

// Scrubbing memory images: each MiB of a packed one has a checksum. What is found is noted with the image, until a later
// scrub finds it right: nobody is to start a machine from it.

import (
	"errors"
	"fmt"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// withMemory are the snapshots that have their machine's memory.
func (s *Store) withMemory() (all []*Snapshot) {
	for _, v := range s.VMs() {
		for _, n := range v.Snapshots() {
			if _, err := n.Memory(); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

// scrubImage reads the memory of a snapshot. One that is not packed yet has no checksums.
func (s *Store) scrubImage(n *Snapshot, report *ScrubReport) error {
	i, before := n.image, report.Bytes
	for {
		r := i.record()
		damage, err := s.compareImage(i, r, report)
		switch {
		case i.removed.Load():
			return nil
		case err != nil:
			return err
		case r.Packed != i.record().Packed: // its file went meanwhile
			report.Bytes = before
			continue
		}
		report.Images++
		if !r.Packed {
			report.Unsummed += r.Bytes
		}
		if damage != nil {
			damage.Object = n.vm.Name() + "@" + n.Name()
			report.Findings = append(report.Findings, *damage)
		}
		return i.noteDamage(r, damage)
	}
}

// compareImage finds what of an image can't be read, or is not what was packed. It takes no more than half of the time.
func (s *Store) compareImage(i *image, r imageRecord, report *ScrubReport) (*Finding, error) {
	source, err := i.images.open(i.id, r)
	if err != nil {
		return &Finding{Text: fmt.Sprintf("has lost the machine's memory, %s: %v", imageName(i.id, r), err)}, nil
	}
	defer source.Close()
	if !r.Packed {
		return nil, nil
	}
	var bad [][2]int64
	frame := make([]byte, frameSize)
	for at := int64(0); at < r.Bytes && !i.removed.Load(); at += frameSize {
		began := time.Now()
		part := frame[:min(frameSize, r.Bytes-at)]
		if n, _ := source.ReadAt(part, at); n < len(part) {
			bad = append(bad, [2]int64{at, at + int64(len(part))})
		}
		s.compared(report, len(part))
		select {
		case <-s.stop:
			return nil, errStopped
		case <-time.After(time.Since(began)):
		}
	}
	if len(bad) == 0 {
		return nil, nil
	}
	bad = joined(bad)
	return &Finding{Ranges: bad, Text: fmt.Sprintf("the machine's memory, %s, is damaged in bytes %s of it; no machine can be started from it, and the disks of the snapshot are not concerned",
		imageName(i.id, r), rangesText(bad))}, nil
}

// noteDamage commits what a scrub found, if that is another thing than what is known.
func (i *image) noteDamage(r imageRecord, found *Finding) error {
	text := ""
	if found != nil && found.Ranges != nil { // else it shows without a scrub
		text = fmt.Sprintf("a scrub found it damaged in bytes %s of the memory", rangesText(found.Ranges))
	}
	if text == r.Damaged {
		return nil
	}
	i.damaged.Store(nil)
	if text != "" {
		i.damaged.Store(&text)
	}
	err := i.images.store.update(func(tx *blockmap.Tx) error {
		return editIfThere(tx, catalogKey(tableImage, i.id), func(r *imageRecord) { r.Damaged = text })
	})
	if errors.Is(err, blockmap.ErrFailed) {
		return err
	}
	if err != nil { // it is known until the store is closed
		i.images.store.opts.Event("", "scrub-failed", "image", fileName(LayerID(i.id)), "error", err.Error())
	}
	return nil
}
