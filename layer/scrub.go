package layer

// Scrubbing: reading all that has checksums, and comparing.

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// ScrubReport is what a scrub found. Images: of machines' memory. Bytes: data that was compared; Unsummed: data of sealed layers,
// and memory, that has no checksums yet.
type ScrubReport struct {
	Findings []Finding `json:"findings"`
	Layers   int       `json:"layers"`
	Images   int       `json:"images"`
	Bytes    int64     `json:"bytes"`
	Unsummed int64     `json:"unsummed"`

	mismatched int // blocks
}

// Scrub compares all data that has checksums with them, while guests go on. It reads at no more than half the disk's
// speed. What it finds is told, of memory images also noted, and nothing else changed, but for checksums that are lost. EBUSY while another one runs.
func (s *Store) Scrub() (ScrubReport, error) {
	report := ScrubReport{Findings: []Finding{}}
	if !s.scrubbing.TryLock() {
		return report, Errorf(syscall.EBUSY, "a scrub is under way already")
	}
	defer s.scrubbing.Unlock()
	layers, memories := s.sealedLayers(true), s.withMemory()
	var total int64
	for _, l := range layers {
		total += l.blocks.Load() * blockSize
	}
	for _, n := range memories {
		total += n.image.bytes
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
	for _, n := range memories {
		if err := s.scrubImage(n, &report); err != nil {
			return report, Errorf(syscall.EIO, "scrub: %w", err)
		}
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

func (s *Store) compared(report *ScrubReport, n int) {
	report.Bytes += int64(n)
	s.scrubbed.Load().bytes.Store(report.Bytes)
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
	found := mismatches{layer: l, by: make(map[string]*mismatched)}
	defer func() { report.Findings = append(report.Findings, found.findings()...) }()
	return s.eachBlock(l, func(block uint64, data []byte) error {
		s.compared(report, len(data))
		wrong, err := s.compare(l, block, data)
		for _, b := range wrong {
			// It may have been given up, and punched, since the index was asked.
			held, err := s.heldBy(l, b/blockmap.RegionBlocks)
			if err != nil {
				return err
			}
			if held.Has(int(b % blockmap.RegionBlocks)) {
				report.mismatched += found.add(b, s.seenBy(l, b, report.mostReaders()))
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
