package layer

// Scrubbing: reading all that has checksums, and comparing.

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// ScrubReport is what a scrub found. Bytes: data that was compared; Unsummed: data of sealed layers that has no
// checksums yet.
type ScrubReport struct {
	Findings []Finding `json:"findings"`
	Layers   int       `json:"layers"`
	Bytes    int64     `json:"bytes"`
	Unsummed int64     `json:"unsummed"`
}

// Scrub compares all data that has checksums with them, while guests go on. It reads at no more than half the disk's
// speed. What it finds is told, and nothing changed, but for checksums that are lost. EBUSY while another one runs.
func (s *Store) Scrub() (ScrubReport, error) {
	report := ScrubReport{Findings: []Finding{}}
	if !s.scrubbing.TryLock() {
		return report, Errorf(syscall.EBUSY, "a scrub is under way already")
	}
	defer s.scrubbing.Unlock()
	layers := s.sealedLayers(true)
	var total int64
	for _, l := range layers {
		total += l.blocks.Load() * blockSize
	}
	s.scrubbed.Store(&scrubbed{of: max(total, 1)})
	defer s.scrubbed.Store(nil)
	for _, l := range layers {
		err := s.scrubLayer(l, &report)
		if errors.Is(err, errStopped) {
			return report, Errorf(syscall.EIO, "scrub: %w", err)
		}
		switch {
		case errors.Is(err, errNoSums):
			report.found(s.nameOf(l), "%v; they are made anew of what it holds now", err)
		case err != nil && s.tree.layer(l.id) == l:
			report.found(s.nameOf(l), "%v", err)
		}
		report.Layers++
	}
	for _, l := range s.layersToSum() {
		report.Unsummed += l.blocks.Load() * blockSize
	}
	return report, nil
}

// scrubbed is how far a scrub is, in bytes.
type scrubbed struct {
	bytes atomic.Int64
	of    int64
}

// ScrubProgress is how many percent of a scrub are done, and whether one is under way.
func (s *Store) ScrubProgress() (percent int, underWay bool) {
	p := s.scrubbed.Load()
	if p == nil {
		return 0, false
	}
	return int(min(p.bytes.Load()*100/p.of, 100)), true
}

func (r *ScrubReport) found(object, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{Object: object, Text: fmt.Sprintf(format, args...)})
}

func (s *Store) scrubLayer(l *layer, report *ScrubReport) error {
	return s.eachBlock(l, func(block uint64, data []byte) error {
		report.Bytes += int64(len(data))
		s.scrubbed.Load().bytes.Store(report.Bytes)
		wrong, err := s.compare(l, block, data)
		for _, b := range wrong {
			// It may have been given up, and punched, since the index was asked.
			held, err := s.heldBy(l, b/blockmap.RegionBlocks)
			if err != nil {
				return err
			}
			if name, seen := s.seenBy(l, b); seen && held.Has(int(b%blockmap.RegionBlocks)) {
				report.found(name, "%s", mismatchText(l, b))
			}
		}
		return err
	})
}

// compare is mismatch for those who hold no epoch.
func (s *Store) compare(l *layer, block uint64, data []byte) ([]uint64, error) {
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	switch {
	case s.tree.layer(l.id) != l:
		return nil, errGone
	case !l.summed.Load():
		return nil, errNoSums
	}
	return s.mismatch(l, block, data)
}
