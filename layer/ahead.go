package layer

// What of a snapshot is flushed ahead of its instant, and what after it.
//
// A flush has the host's file system find places for blocks, under a lock of their file that whoever writes to it waits for. Behind
// the instant guests write to other files, the new heads', and none of them waits for that; but their flushes wait for the seal. So what is
// ahead is what a flush would wait for long, or is likely to.

import "time"

const (
	aheadBytes   = writebackFrom // from so many unsynced ones on
	aheadRegions = 2048          // and from so many regions with anything uncommitted
	flushHabit   = time.Second   // a VM of which a file was flushed within that will do it again soon
)

// flushAhead has the index know what a file holds, where that should not wait for the seal. held: the guest is to be held still
// for the instant, which comes to a flush.
func (f *File) flushAhead(held bool) error {
	flushes := time.Since(time.Unix(0, f.vm.flushed.Load())) < flushHabit
	w := f.state.Load().head.writer()
	if w == nil || held || flushes || w.unsynced.Load() >= aheadBytes || w.dirty.Regions() >= aheadRegions {
		return f.Commit(true)
	}
	return nil
}
