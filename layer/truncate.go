package layer

// Truncating: a shrink is one record, a cut from which up nothing below shows; clearing what lay there follows.

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// truncate sets the size, durably. The caller holds the VM's op.
func (f *File) truncate(size int64) error {
	if size < 0 {
		return Errorf(syscall.EINVAL, "size %d", size)
	}
	if size > MaxFileSize {
		return Errorf(syscall.EFBIG, "no file is larger than %d bytes", int64(MaxFileSize))
	}
	if size < f.size.Load() {
		return f.shrink(size)
	}
	if err := f.enter(true, 4); err != nil {
		return err
	}
	err := f.grow(size)
	f.exit(4)
	if err != nil {
		return err
	}
	return f.Commit(false)
}

// shrink cuts the file off.
//
// What is written and stays is flushed, the cut committed with the size, and only then shown: a crash before the
// commit leaves the old file, one after it the new, with blocks behind the cut that do not count (Void) and are
// cleared by the next start.
func (f *File) shrink(size int64) error {
	if err := f.Commit(true); err != nil { // most of it, while guests go on
		return err
	}
	f.vm.sealing.RLock()
	defer f.vm.sealing.RUnlock()
	if g := f.voiding.Load(); g != nil {
		<-*g
	}
	st := f.state.Load()
	w := st.head.writer()
	w.flushing.Lock()
	defer w.flushing.Unlock()
	f.vm.barrier.Lock()
	defer f.vm.barrier.Unlock()
	old := f.size.Load()
	if size >= old {
		return f.grow(size)
	}
	if err := f.zeroPart(size, min(old, (size+blockSize-1)&^(blockSize-1))); err != nil {
		return err
	}
	if err := f.flushLocked(st.head, w, true); err != nil {
		return err
	}
	cut := uint64(size+blockSize-1) / blockSize
	meta, err := f.commitCut(st.head, cut, size)
	if err != nil {
		return err
	}
	w.saved = meta
	f.showCut(st, w, cut, size)
	return nil
}

func (f *File) commitCut(head *layer, cut uint64, size int64) (fileMeta, error) {
	meta := f.meta()
	meta.size = size
	meta.allocated = min(meta.allocated, int64((size+blockSize-1)/blockSize))
	logged := f.vm.logMark()
	return meta, f.vm.store.update(func(tx *blockmap.Tx) error {
		err := edit(tx, catalogKey(tableFile, f.id), func(r *fileRecord) { r.setMeta(meta) })
		if err != nil {
			return err
		}
		return edit(tx, catalogKey(tableLayer, head.id), func(r *layerRecord) {
			if r.Cut == nil || cut < *r.Cut {
				r.Cut = &cut
			}
			r.Void, r.Log = &cut, logged
		})
	})
}

// showCut shows the cut, within the exclusive barrier, and starts clearing behind it.
func (f *File) showCut(st *fileState, w *headState, cut uint64, size int64) {
	s := f.vm.store
	s.tree.Lock()
	s.tree.cutLocked(st.head, cut)
	st.head.void = cut
	s.tree.Unlock()
	w.dirty.Truncate(cut)
	f.refreshChain()
	st.chain.InvalidateFrom(cut)
	f.setSize(size)
	f.startVoiding(st.head)
}

// startVoiding has what lies behind the cut cleared, by the next start if the store is being closed.
func (f *File) startVoiding(head *layer) {
	f.voiding.Store(newGate())
	if !f.vm.store.work.start(func() { f.clearVoid(head) }) {
		f.broken.Store(true)
		close(*f.voiding.Swap(nil))
	}
}

// clearVoid clears the head's own blocks behind the latest cut. Nothing is written to the file before that is done, so that
// from then on what the head has there was written after the shrink.
//
// A crash on the way leaves Void set, and the next start goes on.
func (f *File) clearVoid(head *layer) {
	defer func() { close(*f.voiding.Swap(nil)) }()
	s := f.vm.store
	s.tree.RLock()
	cut := head.void
	s.tree.RUnlock()
	if err := f.clearBehind(head, cut); err != nil {
		s.opts.Event(f.vm.Name(), "shrink-failed", "file", f.Name(), "error", err.Error())
		f.broken.Store(true) // what was cut off could show again through a write there
		f.vm.store.fail(head)
		return
	}
	s.tree.Lock()
	head.void = noCut
	below := s.tree.belowLocked(head)
	s.tree.Unlock()
	s.reclaim.addRun(below) // the cut covers what retired layers below may have been kept for
	f.refreshChain()
	f.state.Load().chain.InvalidateFrom(cut)
}

// refreshChain has the file's map look where the tree says now.
func (f *File) refreshChain() {
	s, st := f.vm.store, f.state.Load()
	s.chains.RLock()
	defer s.chains.RUnlock()
	st.chain.SetChain(s.tree.chain(st.head))
}

// clearBehind clears the records, gives back the room, counts what is left, and takes the mark away.
func (f *File) clearBehind(head *layer, cut uint64) error {
	s := f.vm.store
	if err := s.clearFrom(head, cut); err != nil {
		return err
	}
	if err := s.cutFile(head, cut); err != nil { // what stays takes room, no more
		s.opts.Event(f.vm.Name(), "reclaim-failed", "file", f.Name(), "error", err.Error())
	}
	blocks, err := f.count()
	if err != nil {
		return err
	}
	w := head.writer()
	w.flushing.Lock() // a flush counts on from what was committed
	defer w.flushing.Unlock()
	err = s.update(func(tx *blockmap.Tx) error {
		if err := editIfThere(tx, catalogKey(tableFile, f.id), func(r *fileRecord) { r.Allocated = blocks }); err != nil {
			return err
		}
		return editIfThere(tx, catalogKey(tableLayer, head.id), func(r *layerRecord) { r.Void = nil })
	})
	if err == nil {
		w.saved.allocated = blocks
		f.allocated.Store(blocks)
	}
	return err
}

// cutFile cuts a head's data file off where nothing of it counts any more. To punch a hole there would do, too, but a file
// system refuses one that goes beyond its own largest file.
func (s *Store) cutFile(head *layer, cut uint64) error {
	if !head.hasFile.Load() {
		return nil
	}
	s.epochs.wait() // for those who read what was there
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	fd, err := s.data.open(head, false)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return hostError("look at data file", head, err)
	}
	// With the size that it has, too, what was reserved behind that is given back.
	if err := cutOffAt(fd, min(st.Size, int64(cut)*blockSize)); err != nil {
		return hostError("cut off data file", head, err)
	}
	return nil
}

// clearFrom clears a layer's records from a block up.
func (s *Store) clearFrom(l *layer, cut uint64) error {
	for done := false; !done; {
		var cleared int64
		err := s.update(func(tx *blockmap.Tx) error {
			cleared = 0
			regions, err := touchedFrom(tx, l, cut/blockmap.RegionBlocks, s.index.MaxTx()/1024)
			if err != nil {
				return err
			}
			changed := 0
			for _, region := range regions {
				n, ok, err := s.clearRegion(tx, l, region, cut)
				if err != nil {
					return err
				}
				cleared += n
				if ok {
					changed++
				}
			}
			done = changed == 0
			return editIfThere(tx, catalogKey(tableLayer, l.id), func(r *layerRecord) { r.Blocks -= cleared })
		})
		if err != nil {
			return err
		}
		l.blocks.Add(-cleared)
	}
	return nil
}

// touchedFrom lists up to max regions from first up in which the layer has records.
func touchedFrom(tx *blockmap.Tx, l *layer, first uint64, max int) ([]uint64, error) {
	var regions []uint64
	from := regionKey(tableTouched, l.id, first)
	err := tx.ScanFrom(catalogKey(tableTouched, l.id), from, func(key, _ []byte) error {
		if len(regions) >= max {
			return errEnough
		}
		region, err := keyID(key, 1)
		regions = append(regions, region)
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return regions, err
}

// errEnough ends a scan that has found what it was to find.
var errEnough = errors.New("enough")

// clearRegion clears what the layer says of blocks from cut up, and returns how many blocks of data those were, and
// whether there was anything.
func (s *Store) clearRegion(tx *blockmap.Tx, l *layer, region, cut uint64) (data int64, any bool, err error) {
	in, r, err := s.tree.recordToChange(tx, l, region)
	if err != nil {
		return 0, false, err
	}
	from := 0
	if base := region * blockmap.RegionBlocks; cut > base {
		from = int(min(cut-base, blockmap.RegionBlocks))
	}
	before, held := r, r.Data.Count()
	r.Data.ClearRange(from, blockmap.RegionBlocks)
	r.Zero.ClearRange(from, blockmap.RegionBlocks)
	if r == before {
		return 0, false, nil
	}
	putRecord(tx, in, l.id, region, before.Empty(), &r)
	return int64(held - r.Data.Count()), true, nil
}
