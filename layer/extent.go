package layer

// Extents: where a sparse file has data and where it has holes, at the cost of what it has, not of its size.

import (
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// FindExtent finds the next data, or with hole the next hole, at or after off. ENXIO if off is at or past the end, or
// no data follows; a hole follows always, if only behind the end.
func (f *File) FindExtent(off int64, hole bool) (int64, error) {
	for {
		st := f.state.Load()
		found, err := f.vm.store.findExtent(st.chain, f.size.Load(), off, hole)
		if err == nil || f.state.Load() == st {
			return found, err
		}
		// A revert took the map away meanwhile: look at what it brought.
	}
}

// FindExtent is File.FindExtent for what the snapshot shows.
func (w *View) FindExtent(off int64, hole bool) (int64, error) {
	chain := w.chain.Load()
	if chain == nil {
		return 0, Errorf(syscall.EBADF, "file %q of a snapshot is not open", w.entry.Name)
	}
	return w.snap.vm.store.findExtent(chain, w.entry.Size, off, hole)
}

var errNoData = Errorf(syscall.ENXIO, "nothing but a hole from there to the end")

func (s *Store) findExtent(m *chainMap, size, off int64, hole bool) (int64, error) {
	if off < 0 || off >= size {
		return 0, errNoData
	}
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	for off < size {
		owner, n, err := run(m.Map, off, int(min(size-off, blockmap.RegionSize)), true)
		if err != nil {
			return 0, err
		}
		if (owner == 0) == hole {
			return off, nil
		}
		off += int64(n)
		if owner == 0 && off%blockmap.RegionSize == 0 {
			if off, err = s.skipHole(m, off, size); err != nil {
				return 0, err
			}
		}
	}
	if hole {
		return size, nil
	}
	return 0, errNoData
}

// skipHole returns where at or after off, the beginning of a region, there may be data; size if nowhere.
func (s *Store) skipHole(m *chainMap, off, size int64) (int64, error) {
	region := uint64(off / blockmap.RegionSize)
	// What is not committed before what is: it may be committed in between.
	next, ok := m.nextUnsaved(region)
	committed, there, err := s.index.NextRegion(m.Chain(), region)
	if err != nil {
		return 0, Errorf(syscall.EIO, "search the index: %w", err)
	}
	if there && (!ok || committed < next) {
		next, ok = committed, true
	}
	if !ok || next >= uint64(size/blockmap.RegionSize)+1 {
		return size, nil
	}
	return min(size, int64(next)*blockmap.RegionSize), nil
}

func (m *chainMap) nextUnsaved(region uint64) (next uint64, ok bool) {
	for _, l := range *m.unsaved.Load() {
		w := l.writer()
		if w == nil {
			continue
		}
		if r, there := w.dirty.NextRegion(region); there && (!ok || r < next) {
			next, ok = r, true
		}
	}
	return next, ok
}

// count counts the blocks of the file that read as data.
func (f *File) count() (blocks int64, err error) {
	s, m, size := f.vm.store, f.state.Load().chain, f.size.Load()
	for off := int64(0); off < size; {
		start, err := s.findExtent(m, size, off, false)
		if err != nil {
			if Errno(err) == syscall.ENXIO {
				break
			}
			return 0, err
		}
		if off, err = s.findExtent(m, size, start, true); err != nil {
			return 0, err
		}
		blocks += (off - start + blockSize - 1) / blockSize
	}
	return blocks, nil
}
