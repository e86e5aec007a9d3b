package layer

// Writing: in place where the head owns the block, else the head takes it over first.

import (
	"sync"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// Write writes all of p at off, or returns an error. What it wrote survives a power loss after the next Flush.
// With wait=false it returns ErrWait rather than wait for a snapshot, a shrink or the index.
func (f *File) Write(p []byte, off int64, wait bool) (int, error) {
	n, err := f.write(p, off, wait)
	if n > 0 {
		f.writeEarly(off, n)
	}
	return n, err
}

func (f *File) write(p []byte, off int64, wait bool) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if off < 0 || off > MaxFileSize-int64(len(p)) {
		return 0, Errorf(syscall.EFBIG, "%s: no file is larger than %d bytes", f, int64(MaxFileSize))
	}
	if wait {
		f.vm.turns.take()
		defer f.vm.turns.giveBack()
	}
	records := uint64(len(p)/blockSize + 4)
	if err := f.enter(wait, records); err != nil {
		return 0, err
	}
	defer f.exit(records)
	if end := off + int64(len(p)); end > f.size.Load() {
		if err := f.lockGrowth(wait); err != nil {
			return 0, err
		}
		defer f.extending.Unlock()
		if err := f.clearTail(off); err != nil {
			return 0, err
		}
	}
	if err := f.writeAt(p, off, true, wait); err != nil {
		return 0, err
	}
	f.touch()
	return len(p), nil
}

// lockGrowth keeps others from changing the size: writes past the end run one at a time.
func (f *File) lockGrowth(wait bool) error {
	if wait {
		f.extending.Lock()
	} else if !f.extending.TryLock() {
		return ErrWait
	}
	return nil
}

// grow makes the file at least size long, with zeros.
func (f *File) grow(size int64) error {
	f.extending.Lock()
	defer f.extending.Unlock()
	if err := f.clearTail(size); err != nil {
		return err
	}
	f.extend(size)
	return nil
}

// clearTail comes before the file grows to size. A crash may have left something behind the end in the last block: it
// is written over before it can show. The caller holds extending.
func (f *File) clearTail(size int64) error {
	old := f.size.Load()
	tail := min(size, (old+blockSize-1)&^(blockSize-1))
	if tail <= old {
		return nil
	}
	slot := f.vm.store.epochs.enter()
	defer f.vm.store.epochs.leave(slot)
	owner, _, err := run(f.state.Load().chain.Map, old, int(tail-old), true)
	if err != nil || owner == 0 {
		return err
	}
	return f.writeAt(make([]byte, tail-old), old, false, true)
}

// extend grows the size. Where end is past it, the caller holds extending. Nobody sees the new size before it is
// logged: what is written below it is answered for.
func (f *File) extend(end int64) {
	if end > f.size.Load() {
		f.grown.Store(end)
		head := f.state.Load().head
		f.vm.log.append(&head.writer().logged, head.id, logSize, uint64(end))
		f.size.Store(end)
	}
}

// setSize is for a size that the index has already.
func (f *File) setSize(size int64) {
	f.grown.Store(size)
	f.size.Store(size)
}

// enter takes the barrier, shared, and room in the session log for so many records. Blocks that a shrink cut off are
// cleared before anything is written.
func (f *File) enter(wait bool, records uint64) error {
	for {
		if !wait {
			if !f.vm.barrier.TryRLock() {
				return ErrWait
			}
		} else {
			f.vm.barrier.RLock()
		}
		g := f.voiding.Load()
		room := f.vm.log.charge(records)
		if g == nil && room && !f.broken.Load() {
			return nil
		}
		f.vm.barrier.RUnlock()
		if room {
			f.vm.log.discharge(records)
		}
		switch {
		case g == nil && room:
			return Errorf(syscall.EIO, "%s: a shrink could not be finished; mount the store again", f)
		case !wait:
			return ErrWait
		case g != nil:
			<-*g
		default:
			if err := f.vm.awaitLog(records); err != nil {
				return err
			}
		}
	}
}

// exit ends what enter began.
func (f *File) exit(records uint64) {
	f.vm.log.discharge(records)
	f.vm.barrier.RUnlock()
}

// writeAt is Write within the barrier. Only with grow does it change the size.
func (f *File) writeAt(p []byte, off int64, grow, wait bool) error {
	s, st := f.vm.store, f.state.Load()
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	end := off + int64(len(p))
	for len(p) > 0 {
		owner, n, err := run(st.chain.Map, off, len(p), wait)
		if err != nil {
			return err
		}
		if owner == st.head.id {
			err = s.overwrite(st.head, p[:n], off)
		} else {
			n = f.untaken(st, off, n, len(p))
			err = f.take(st, p[:n], off, grow)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	if grow {
		f.extend(end)
	}
	return nil
}

// overwrite writes blocks that the head owns already.
func (s *Store) overwrite(head *layer, p []byte, off int64) error {
	err := s.writeRun(head, p, off)
	if err == nil {
		head.noteWritten(off, len(p))
	}
	return err
}

// writeRun writes to blocks that the head owns, or is about to.
func (s *Store) writeRun(head *layer, p []byte, off int64) error {
	fd, err := s.data.open(head, true)
	if err != nil {
		return err
	}
	err = writeBlocks(fd, head, p, off)
	// After the write: a flush that clears it before syncs too early for this one.
	head.writer().unsynced.Add(int64(len(p)))
	return err
}

// untaken stretches a run of n bytes at off that the head does not own by what follows and it does not own either,
// so that a large write over many layers is one pwrite.
func (f *File) untaken(st *fileState, off int64, n, max int) int {
	for n < max {
		owner, more, err := run(st.chain.Map, off+int64(n), max-n, false)
		if err != nil || owner == st.head.id {
			break
		}
		n += more
	}
	return n
}

// take makes the head the owner of the blocks that p at off touches, with p in them.
func (f *File) take(st *fileState, p []byte, off int64, grow bool) error {
	for len(p) > 0 {
		// A region at a time, so that no lock is asked for twice.
		n := min(len(p), int(blockmap.RegionSize-off%blockmap.RegionSize))
		if err := f.takeRegion(st, p[:n], off, grow); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (f *File) takeRegion(st *fileState, p []byte, off int64, grow bool) error {
	unlock := f.lockBlocks(uint64(off)/blockSize, uint64(off+int64(len(p))-1)/blockSize)
	defer unlock()
	for len(p) > 0 {
		// Again, now that nobody else can take them.
		owner, n, err := run(st.chain.Map, off, len(p), true)
		if err != nil {
			return err
		}
		if owner == st.head.id {
			err = f.vm.store.overwrite(st.head, p[:n], off)
		} else {
			n, err = f.takeRun(st, owner, p[:n], off, grow)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// lockBlocks keeps others from taking over blocks first to last, which lie in one region, and returns what lets them.
func (f *File) lockBlocks(first, last uint64) (unlock func()) {
	from, to := first/64%stripes, last/64%stripes
	lock := func(from, to uint64, op func(*sync.Mutex)) {
		for i := from; i <= to; i++ {
			op(&f.stripes[i])
		}
	}
	each := func(op func(*sync.Mutex)) {
		if from <= to {
			lock(from, to, op)
			return
		}
		lock(0, to, op) // rising, whatever the blocks' order
		lock(from, stripes-1, op)
	}
	each((*sync.Mutex).Lock)
	return func() { each((*sync.Mutex).Unlock) }
}

// takeRun takes over blocks of one owner, or of none, and returns how many bytes of p it wrote: whole blocks first to
// last, or a part of a single one, which is merged with what the block showed.
//
// The data is in the page cache before the bit is set, and a bit is only set for a wholly written block: whoever sees
// the new owner sees the data.
func (f *File) takeRun(st *fileState, owner LayerID, p []byte, off int64, grow bool) (int, error) {
	s := f.vm.store
	var err error
	n := len(p) &^ (blockSize - 1)
	if off%blockSize != 0 || n == 0 {
		n = min(len(p), int(blockSize-off%blockSize))
		err = f.takePart(st, owner, p[:n], off)
	} else if err = s.space.take(int64(n)); err == nil {
		err = s.writeRun(st.head, p[:n], off)
	}
	if err != nil {
		return 0, err
	}
	first := uint64(off) / blockSize
	last := uint64(off+int64(n)-1) / blockSize
	if grow {
		f.extend(off + int64(n)) // before the blocks: see beginFlush
	}
	f.own(st, owner, first, last+1)
	st.head.noteWritten(off, n)
	return n, nil
}

// takePart writes a whole block that is p in the part that p covers, and as before in the rest.
func (f *File) takePart(st *fileState, owner LayerID, p []byte, off int64) error {
	s := f.vm.store
	if err := s.space.take(blockSize); err != nil {
		return err
	}
	buf := blockPool.Get().(*[blockSize]byte)
	defer blockPool.Put(buf)
	start := off &^ (blockSize - 1)
	if err := s.readRun(owner, buf[:], start, true); err != nil {
		return err
	}
	copy(buf[off-start:], p)
	return s.writeRun(st.head, buf[:], start)
}

var blockPool = sync.Pool{New: func() any { return new([blockSize]byte) }}

// own notes that the head holds blocks from up to, not including, to of one region, which were owner's.
func (f *File) own(st *fileState, owner LayerID, from, to uint64) {
	region, w := from/blockmap.RegionBlocks, st.head.writer()
	base := region * blockmap.RegionBlocks
	by := counts{held: int64(to - from)}
	if owner == 0 {
		by.allocated = by.held
	}
	st.chain.LockRegion(region)
	w.change(by, func(d *blockmap.Dirty) { d.Set(region, blockmap.KindData, int(from-base), int(to-base)) })
	f.vm.log.append(&w.logged, st.head.id, logData, blocksValue(from, to-from))
	st.chain.Set(region, int(from-base), int(to-base), st.head.id)
	st.chain.UnlockRegion(region)
	st.head.blocks.Add(by.held)
	f.allocated.Add(by.allocated)
	if owner == 0 {
		return
	}
	f.vm.store.covered(w, owner, region)
}

// covered takes note that a head has something over another layer: if that is retired by the time it is committed,
// the layer may have something to give back.
func (s *Store) covered(w *headState, owner LayerID, region uint64) {
	lay := s.tree.layer(owner)
	if lay == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.covered == nil {
		w.covered = make(map[layerRegion]struct{})
	}
	w.covered[layerRegion{lay, region}] = struct{}{}
}
