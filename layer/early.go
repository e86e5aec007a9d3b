package layer

// Writing early. A guest that syncs each of its writes waits for the disk twice: for what it wrote to get there, and for the disk's
// cache to be emptied. Whoever has just flushed a few blocks at a time, several times in a row, will do it again: so the disk
// is given such a block before its write is answered, and is at it by the time that the flush comes. That delays the answer by
// 10 µs, and the flush is 30 µs faster. After the answer it would delay the guest as much: it is woken on the same processor.
//
// It is what the kernel may do with a dirty page at any time. Errors of it are the flush's to hear of, as ever.

import "golang.org/x/sys/unix"

const (
	earlyFrom   = 8 // flushes in a row
	earlyBlocks = 2 // of so many blocks, at most
)

// noteHabit comes with a flush that is about to wait for the layer's data to be on disk.
func (w *headState) noteHabit() {
	n, all := w.written.len()
	switch {
	case !all || n > earlyBlocks:
		w.habit.Store(0)
	case n > 0 && w.habit.Load() < earlyFrom:
		w.habit.Add(1)
	}
}

// writeEarly comes after a write of n bytes at off.
func (f *File) writeEarly(off int64, n int) {
	if w := f.state.Load().head.writer(); w == nil || w.habit.Load() < earlyFrom {
		return
	}
	slot := f.vm.store.epochs.enter()
	defer f.vm.store.epochs.leave(slot)
	head := f.state.Load().head
	w := head.writer()
	if w == nil {
		return
	}
	if blocks, all := w.written.len(); !all || blocks > earlyBlocks || f.uncommitted(w) {
		return // among these, blocks for which the host's file system would have to find a place
	}
	if fd, err := f.vm.store.data.open(head, false); err == nil {
		_ = syncRange(fd, extent{off, int64(n)}, unix.SYNC_FILE_RANGE_WRITE)
	}
}
