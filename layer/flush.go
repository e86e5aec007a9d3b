package layer

// Flushing: from "it was written" to "it survives a power loss".

import (
	"errors"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// Flush makes durable what was written before the call: fsync(2), or fdatasync(2) with dataOnly, which leaves out
// times that alone changed. It waits while a snapshot of the VM is being sealed.
func (f *File) Flush(dataOnly bool) error {
	f.vm.flushed.Store(time.Now().UnixNano())
	return f.flushHead(want{times: !dataOnly})
}

// Commit is Flush, and has the index know all of it.
func (f *File) Commit(dataOnly bool) error {
	return f.flushHead(want{times: !dataOnly, commit: true})
}

func (f *File) flushHead(what want) error {
	f.vm.sealing.RLock()
	defer f.vm.sealing.RUnlock()
	return f.flush(f.state.Load().head, what)
}

// TryFlush is Flush with dataOnly that waits for one write or sync, of no more than a few MiB, and for nothing else. done gets
// how it ended: ErrWait if the index has to be told, or another flush or a snapshot is under way. It may be called after the
// return, by whoever writes what several flush, and must not wait for anything.
func (f *File) TryFlush(done func(error)) {
	f.vm.flushed.Store(time.Now().UnixNano())
	if !f.vm.sealing.TryRLock() {
		done(ErrWait)
		return
	}
	head := f.state.Load().head
	w := head.writer()
	if w == nil || !w.flushing.TryLock() {
		f.vm.sealing.RUnlock()
		done(ErrWait)
		return
	}
	end := func(err error) {
		w.flushing.Unlock()
		f.vm.sealing.RUnlock()
		done(err)
	}
	err := f.flushToJournal(head, w, func(err error) {
		if err != nil {
			err = ErrWait
		}
		end(err)
	})
	switch {
	case err == errLater:
		return
	case err == nil:
	case w.journaled || f.uncommitted(w) || w.unsynced.Load() > writebackFrom:
		err = ErrWait
	default:
		w.noteHabit()
		err = f.flushLocked(head, w, true)
	}
	end(err)
}

// pending says whether there is anything that a flush would commit.
func (f *File) pending() bool {
	w := f.state.Load().head.writer()
	if w == nil { // sealed this instant
		return false
	}
	return w.unsynced.Load() > 0 || f.uncommitted(w)
}

// uncommitted says whether blocks or the size have changed since the last flush.
func (f *File) uncommitted(w *headState) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.dirty.Empty() || len(w.punch) > 0 || f.vm.log.holds(&w.logged)
}

// flush makes durable what one layer of the file holds. One flush of a layer runs at a time. Those that come meanwhile
// share the next one: it answers for all that was written before it begins.
//
// Data is synced, then the index committed. A crash between leaves data that nothing names. If either fails, the
// kernel may have dropped what it could not write and tells so only once: the layer is marked, and no flush of it
// succeeds from then on.
func (f *File) flush(l *layer, what want) error {
	w := l.writer()
	if w == nil {
		return nil // a revert took the file away
	}
	r, leads := w.rounds.join(what)
	if !leads {
		<-r.done
		return r.err
	}
	w.flushing.Lock()
	defer w.flushing.Unlock()
	defer close(r.done)
	what = w.rounds.begin(r)
	if what == (want{}) && f.awaitJournal(l, w) {
		return nil
	}
	r.err = f.flushLocked(l, w, !what.times)
	return r.err
}

// awaitJournal waits for flushToJournal, and says whether it did what it is for.
func (f *File) awaitJournal(l *layer, w *headState) bool {
	written := make(chan error, 1)
	err := f.flushToJournal(l, w, func(err error) { written <- err })
	if err == errLater {
		err = <-written
	}
	return err == nil
}

func (f *File) flushLocked(l *layer, w *headState, dataOnly bool) error {
	return f.flushWith(l, w, f.meta, dataOnly)
}

// flushWith flushes with what meta says of the file once the blocks are copied.
func (f *File) flushWith(l *layer, w *headState, meta func() fileMeta, dataOnly bool) error {
	if w.gone {
		return nil // nobody will ever ask for it
	}
	if w.failed.Load() {
		return Errorf(syscall.EIO, "%s: an earlier flush failed; what was written since the one before it may be lost", f)
	}
	log, journal := f.vm.log, f.vm.store.journal
	w.written.reset()
	b := &batch{layer: l, saved: w.saved, logged: &logMark{f.vm.store.session.header.id, log.begin(&w.logged)}}
	b.begin(w, meta, dataOnly)
	if w.journaled {
		b.journal = journal.position()
	}
	err := f.syncData(w, b)
	if err == nil && !b.empty() {
		err = f.commitFlush(b)
	}
	w.dirty.End(err == nil)
	log.end(&w.logged, err == nil)
	if err != nil {
		w.written.overflow()
		w.putBack(b)
		// Refused before anything was committed, with all data synced: a later flush may succeed.
		if b.begun || !errors.Is(err, blockmap.ErrFull) {
			f.vm.store.fail(l)
		}
		f.vm.store.opts.Event(f.vm.Name(), "flush-failed", "file", f.Name(), "error", err.Error())
		return err
	}
	if b.meta != w.saved || b.hasFile {
		w.saved, w.recorded = b.meta, w.recorded || b.hasFile
	}
	if w.journaled {
		w.journaled = false
		journal.settle(l.id, b.journal)
	}
	f.vm.store.reclaim.flushed(b)
	return nil
}

// batch is what one flush commits: copies, so that what is written meanwhile waits for the next.
type batch struct {
	layer   *layer
	meta    fileMeta
	saved   fileMeta
	counts  counts
	hasFile bool // the index does not know of the data file yet
	deltas  blockmap.Changes
	punch   map[uint64]*blockmap.Bitmap
	punched int64 // blocks that were recorded to be punched
	begun   bool  // a part of it is committed
	covered map[layerRegion]struct{}
	logged  *logMark // up to here it has all of the session log
	journal uint64   // and before this record of the journal all of its; 0: it has none there
}

func (b *batch) empty() bool {
	return len(b.deltas) == 0 && len(b.punch) == 0 && b.meta == b.saved && !b.hasFile && b.journal == 0
}

// fail marks a layer: no flush of it succeeds any more, by this worker or another.
func (s *Store) fail(l *layer) {
	s.session.markFailed(l.id)
	if w := l.writer(); w != nil {
		w.failed.Store(true)
	}
}

// begin copies: the blocks before the size, which grows before them, so that the index never has a block past
// the size; and what is to be punched before the blocks that say so.
func (b *batch) begin(w *headState, meta func() fileMeta, dataOnly bool) {
	l := b.layer
	w.mu.Lock()
	b.punch, w.punch = w.punch, nil
	b.covered, w.covered = w.covered, nil
	b.counts, w.counts = w.counts, counts{}
	b.deltas = w.dirty.Begin()
	w.mu.Unlock()
	b.meta = meta()
	b.meta.allocated = b.saved.allocated + b.counts.allocated // that of just these blocks
	if dataOnly && b.meta.size == b.saved.size && len(b.deltas) == 0 {
		b.meta = b.saved
	}
	b.hasFile = l.hasFile.Load() && !w.recorded
}

// putBack leaves to the next flush what this one could not commit.
func (w *headState) putBack(b *batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.add(b.counts)
	if w.punch == nil {
		w.punch = make(map[uint64]*blockmap.Bitmap)
	}
	for region, blocks := range b.punch {
		if now := w.punch[region]; now != nil {
			blocks.Or(now)
		}
		w.punch[region] = blocks
	}
	if w.covered == nil {
		w.covered = make(map[layerRegion]struct{})
	}
	maps.Copy(w.covered, b.covered)
}

// syncData syncs what was written to the layer's data file.
func (f *File) syncData(w *headState, b *batch) error {
	unsynced := w.unsynced.Swap(0)
	if unsynced == 0 {
		return nil
	}
	s := f.vm.store
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	fd, err := s.data.open(b.layer, false)
	switch {
	case err != nil:
		return err
	case unsynced > writebackFrom:
		err = writeBack(fd)
	default:
		err = handOver(fd, b)
	}
	if err == nil {
		err = dataSync(fd)
	}
	if err != nil {
		return hostError("sync data file", b.layer, err)
	}
	return nil
}

// commitFlush commits a batch, in as many transactions as it takes. The first has the size and the layer's data file:
// what a crash among them leaves is a file of the new size with some of its blocks, none of which was promised. The last
// one has how far the session log and the journal are in the index: who goes on after a crash in between commits all of it
// again.
func (f *File) commitFlush(b *batch) error {
	s := f.vm.store
	if b.hasFile {
		// The name in layers/ before the record that counts on it.
		if err := s.data.syncDir(); err != nil {
			return err
		}
	}
	s.reclaim.giveUp(b.layer, b.punch)
	regions := b.regions()
	for first := true; first || len(regions) > 0; first = false {
		n := 0
		err := s.update(func(tx *blockmap.Tx) error {
			for n = 0; n < len(regions) && tx.Size() < s.index.MaxTx()/2; n++ {
				if err := s.putRegion(tx, b, regions[n]); err != nil {
					return err
				}
			}
			return f.putFlushed(tx, b, first, n == len(regions))
		})
		if err != nil {
			return err
		}
		b.begun, regions = true, regions[n:]
	}
	return nil
}

// regions are those in which something changed, in order.
func (b *batch) regions() []uint64 {
	all := slices.AppendSeq(slices.Collect(maps.Keys(b.deltas)), maps.Keys(b.punch))
	slices.Sort(all)
	return slices.Compact(all)
}

func (f *File) putFlushed(tx *blockmap.Tx, b *batch, first, last bool) error {
	if !first && !last {
		return nil
	}
	err := edit(tx, catalogKey(tableLayer, b.layer.id), func(r *layerRecord) {
		if first {
			r.Blocks += b.counts.held
			r.HasFile = r.HasFile || b.hasFile
		}
		if last {
			r.Log = b.logged
			r.Journal = max(r.Journal, b.journal)
		}
	})
	if err != nil || !first || b.meta == b.saved {
		return err
	}
	// It may have been taken away meanwhile.
	return editIfThere(tx, catalogKey(tableFile, f.id), func(r *fileRecord) { r.setMeta(b.meta) })
}

func (r *fileRecord) setMeta(m fileMeta) {
	r.Size, r.Allocated, r.Attr.Mtime = m.size, m.allocated, m.mtime
}

// putRegion applies what changed in a region to the layer's record of it, and records what is to be punched out.
func (s *Store) putRegion(tx *blockmap.Tx, b *batch, region uint64) error {
	l := b.layer
	in, r, err := s.tree.recordToChange(tx, l, region)
	if err != nil {
		return err
	}
	if delta, ok := b.deltas.Delta(region); ok {
		was := r.Empty()
		delta.Apply(&r)
		putRecord(tx, in, l.id, region, was, &r)
	}
	if blocks := b.punch[region]; blocks != nil {
		added, err := putPunch(tx, l.id, region, blocks)
		b.punched += added
		return err
	}
	return nil
}

// putRecord puts a layer's record of a region under its lineage, and keeps the list of regions that the layer has records in. was says
// whether it had one here.
func putRecord(tx *blockmap.Tx, in lineageID, l LayerID, region uint64, wasEmpty bool, r *blockmap.Record) {
	tx.PutRecord(in, region, l, r)
	switch {
	case wasEmpty && !r.Empty():
		tx.Put(regionKey(tableTouched, l, region), nil)
	case !wasEmpty && r.Empty():
		tx.Delete(regionKey(tableTouched, l, region))
	}
}
