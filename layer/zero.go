package layer

// Discard, write-zeroes and allocation: changes that hold no data.

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// Discard makes n bytes from off read as zeros and gives back what the head held of them, without changing the size.
func (f *File) Discard(off, n int64) error {
	return f.zero(off, n, true)
}

// Zero makes n bytes from off read as zeros. Unless keepSize, the file grows to hold them.
func (f *File) Zero(off, n int64, keepSize bool) error {
	return f.zero(off, n, keepSize)
}

func (f *File) zero(off, n int64, keepSize bool) error {
	if err := checkRange(off, n); err != nil {
		return err
	}
	end := off + n
	for first := true; first || off < end; first = false {
		var err error
		if off, end, err = f.zeroSome(off, end, keepSize || !first); err != nil {
			return err
		}
	}
	f.touch()
	return nil
}

// zeroSome zeroes what lies in the next region that has anything, and returns what is left. It lets snapshots in
// between: nobody promised that a large range goes at one instant.
func (f *File) zeroSome(off, end int64, keepSize bool) (int64, int64, error) {
	const records = 2 * blockmap.RegionBlocks
	if err := f.enter(true, records); err != nil {
		return 0, 0, err
	}
	defer f.exit(records)
	s := f.vm.store
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	if size := f.size.Load(); end > size {
		if !keepSize {
			if err := f.grow(end); err != nil {
				return 0, 0, err
			}
		}
		// Past the end there is nothing, but the last block goes on to where it ends.
		end = min(end, (size+blockSize-1)&^(blockSize-1))
	}
	if off%blockmap.RegionSize == 0 && off < end {
		var err error
		if off, err = s.skipHole(f.state.Load().chain, off, end); err != nil {
			return 0, 0, err
		}
	}
	if off >= end {
		return off, end, nil
	}
	n := min(end-off, blockmap.RegionSize-off%blockmap.RegionSize)
	return off + n, end, f.zeroRegion(off, n)
}

func checkRange(off, n int64) error {
	if off < 0 || n <= 0 {
		return Errorf(syscall.EINVAL, "a range of %d bytes at %d", n, off)
	}
	if off > MaxFileSize-n {
		return Errorf(syscall.EFBIG, "no file is larger than %d bytes", int64(MaxFileSize))
	}
	return nil
}

// zeroRegion zeroes a range within one region: parts of blocks by writing zeros, whole ones in the map.
func (f *File) zeroRegion(off, n int64) error {
	end := off + n
	first, last := (off+blockSize-1)/blockSize, end/blockSize
	if first > last { // within one block
		return f.zeroPart(off, end)
	}
	if err := f.zeroPart(off, first*blockSize); err != nil {
		return err
	}
	if err := f.zeroPart(last*blockSize, end); err != nil {
		return err
	}
	if first == last {
		return nil
	}
	return f.zeroBlocks(uint64(first), uint64(last))
}

// zeroPart zeroes a part of one block, if there is anything in it. Past the end of the file there never is.
func (f *File) zeroPart(from, to int64) error {
	if to = min(to, f.size.Load()); from >= to {
		return nil
	}
	owner, _, err := run(f.state.Load().chain.Map, from, int(to-from), true)
	if err != nil || owner == 0 {
		return err
	}
	return f.writeAt(make([]byte, to-from), from, false, true)
}

// zeroBlocks makes blocks from up to, not including, to of one region read as zeros. A zero bit is kept only where
// a layer below says something. What the head held is punched out after the bits are committed.
func (f *File) zeroBlocks(from, to uint64) error {
	st, region := f.state.Load(), from/blockmap.RegionBlocks
	base := region * blockmap.RegionBlocks
	unlock := f.lockBlocks(from, to-1)
	defer unlock()
	below, err := f.saidBelow(st, region)
	if err != nil {
		return err
	}
	for from < to {
		owner, n, err := run(st.chain.Map, int64(from*blockSize), int((to-from)*blockSize), true)
		if err != nil {
			return err
		}
		blocks := uint64(n / blockSize)
		if owner != 0 {
			f.disown(st, owner, below, region, int(from-base), int(from+blocks-base))
		}
		from += blocks
	}
	return nil
}

// saidBelow are the blocks of a region of which a layer below the head says anything, data or zero. Where none does,
// none ever will: sealed layers only lose bits. A zero bit below is not enough to read as zeros without one here: once
// what the head has there is committed, that bit may go, and show what it hid.
func (f *File) saidBelow(st *fileState, region uint64) (*blockmap.Bitmap, error) {
	s := f.vm.store
	said := &blockmap.Bitmap{}
	chain := s.tree.chainBelow(st.head)
	if chain == nil {
		return said, nil
	}
	for _, d := range st.chain.overlay(region) { // before the view: what it misses is committed by then
		if d.Layer != st.head.id {
			said.Or(&d.Delta.Data)
			said.Or(&d.Delta.Zero)
		}
	}
	err := s.index.View(func(tx *blockmap.Tx) error {
		for _, segment := range chain.Segments {
			err := tx.RegionRecords(segment.Lineage, region, segment.Top, func(_ LayerID, r *blockmap.Record) bool {
				covered := r.Covered()
				said.Or(&covered)
				return !said.Full()
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, Errorf(syscall.EIO, "read the index: %w", err)
	}
	return said, nil
}

// disown notes that blocks of a region, which were owner's, read as zeros now.
func (f *File) disown(st *fileState, owner LayerID, below *blockmap.Bitmap, region uint64, from, to int) {
	w := st.head.writer()
	by := counts{allocated: int64(from - to)}
	if owner == st.head.id {
		by.held = by.allocated
	}
	st.chain.LockRegion(region)
	w.change(by, func(d *blockmap.Dirty) {
		for i := from; i < to; {
			kind, next := blockmap.KindNone, below.Next(i)
			if next == i {
				kind, next = blockmap.KindZero, below.NextClear(i)
			}
			next = min(next, to)
			d.Set(region, kind, i, next)
			i = next
		}
	})
	f.vm.log.append(&w.logged, st.head.id, logZero, blocksValue(region*blockmap.RegionBlocks+uint64(from), uint64(to-from)))
	st.chain.Set(region, from, to, 0)
	st.chain.UnlockRegion(region)
	w.written.overflow() // the journal has no words for it
	f.allocated.Add(by.allocated)
	st.head.blocks.Add(by.held)
	if owner != st.head.id {
		f.vm.store.covered(w, owner, region)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.punch == nil {
		w.punch = make(map[uint64]*blockmap.Bitmap)
	}
	if w.punch[region] == nil {
		w.punch[region] = &blockmap.Bitmap{}
	}
	w.punch[region].SetRange(from, to)
}

// Allocate reserves room for n bytes from off in the head. Unless keepSize, the file grows to hold them. The room is
// the head's: a snapshot leaves it behind.
func (f *File) Allocate(off, n int64, keepSize bool) error {
	if err := checkRange(off, n); err != nil {
		return err
	}
	if err := f.enter(true, 4); err != nil {
		return err
	}
	defer f.exit(4)
	s, head := f.vm.store, f.state.Load().head
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	if err := s.space.take(n); err != nil {
		return err
	}
	fd, err := s.data.open(head, true)
	if err != nil {
		return err
	}
	from, to := off&^(blockSize-1), (off+n+blockSize-1)&^(blockSize-1)
	if err = faulty("allocate"); err == nil {
		err = unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	}
	// A file system that can't reserve takes each block as it comes.
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return hostError("allocate in data file", head, err)
	}
	if !keepSize {
		if err := f.grow(off + n); err != nil {
			return err
		}
	}
	f.touch()
	return nil
}
