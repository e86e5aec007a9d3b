package layer

// Space: guests are refused new blocks before the store's file system is full, so that the index always has room.

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Reserve is how much of the store's file system guests leave free. Bytes, if set, is it; otherwise it is Percent of
// the file system's size. The zero value is 5 %, but at least 128 MiB and at most 4 GiB.
type Reserve struct {
	Percent float64
	Bytes   int64
}

func (r Reserve) of(total int64) int64 {
	switch {
	case r.Bytes > 0:
		return r.Bytes
	case r.Percent > 0:
		return int64(float64(total) / 100 * r.Percent)
	}
	return min(max(total/20, 128<<20), 4<<30)
}

const (
	spaceEvery = 200 * time.Millisecond // how long a measurement is believed
	spaceStep  = 16 << 20               // bytes taken after which it is not, however young
)

// space answers whether there is room for another block.
type space struct {
	dir     string
	reserve int64
	event   func(vm, event string, attrs ...any)

	left atomic.Int64 // bytes that may be taken before measuring anew
	due  atomic.Int64 // when to measure anew, ns since 1970
	low  atomic.Bool
	mu   sync.Mutex // one measurement at a time
}

func newSpace(dir string, r Reserve, event func(vm, event string, attrs ...any)) (*space, error) {
	p := &space{dir: dir, event: event}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, Errorf(syscall.EIO, "measure the file system of %s: %w", dir, err)
	}
	p.reserve = r.of(int64(st.Blocks) * st.Bsize)
	return p, nil
}

// measure returns the file system's size and what is free of it, in bytes.
func (p *space) measure() (total, free int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.dir, &st); err != nil {
		return 0, 0 // as good as full
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// take returns ENOSPC where n more bytes would eat into the reserve.
func (p *space) take(n int64) error {
	if !p.low.Load() && time.Now().UnixNano() < p.due.Load() && p.left.Add(-n) >= 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, free := p.measure()
	above := free - p.reserve
	if above < n {
		if !p.low.Swap(true) {
			p.event("", "space-low", "free", free, "reserve", p.reserve)
		}
		return Errorf(syscall.ENOSPC, "the store's file system has %d MiB free and %d MiB of that are its reserve; delete snapshots or make room", free>>20, p.reserve>>20)
	}
	if p.low.Swap(false) {
		p.event("", "space-ok", "free", free, "reserve", p.reserve)
	}
	p.left.Store(min(above/2, spaceStep))
	p.due.Store(time.Now().Add(spaceEvery).UnixNano())
	return nil
}
