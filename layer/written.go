package layer

// Which blocks of a head were written since it was last flushed, as long as they are few enough for the journal.

import (
	"sync"
	"sync/atomic"
)

// written lists them. A block is listed after the bitmaps that wait for a flush have it, and a flush begins by emptying the
// list: so what is not on it when a later flush looks is in what that one has copied.
type written struct {
	many atomic.Bool // there are more than the list takes, or changes of another kind

	mu     sync.Mutex // guards what follows
	count  int
	blocks [journalBlocks]uint64
}

// noteWritten notes n bytes at off, which the head has, before anybody hears that they are written.
func (l *layer) noteWritten(off int64, n int) {
	if w := l.writer(); !w.written.many.Load() {
		w.written.add(uint64(off)/blockSize, uint64(off+int64(n)-1)/blockSize)
	}
}

func (t *written) add(first, last uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for b := first; b <= last; b++ {
		switch {
		case t.has(b):
		case t.count == len(t.blocks):
			t.many.Store(true)
			return
		default:
			t.blocks[t.count] = b
			t.count++
		}
	}
}

func (t *written) has(b uint64) bool {
	for _, other := range t.blocks[:t.count] {
		if other == b {
			return true
		}
	}
	return false
}

// overflow says that the list is not all.
func (t *written) overflow() { t.many.Store(true) }

// reset comes before a flush copies what has changed.
func (t *written) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count = 0
	t.many.Store(false)
}

// len is how long the list is, and says whether it is all.
func (t *written) len() (n int, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count, !t.many.Load()
}

// take empties the list, and says whether it was all.
func (t *written) take() ([]uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.many.Load() {
		return nil, false
	}
	blocks := append([]uint64(nil), t.blocks[:t.count]...)
	t.count = 0
	return blocks, true
}
