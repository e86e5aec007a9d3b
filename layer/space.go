package layer

// Space: guests are refused new blocks before the store's file system is full, so that the index always has room.

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// Reserve is how much of the store's file system guests leave free. Bytes, if set, is it; otherwise it is Percent of
// the file system's size. The zero value is 5 %, but at least LeastReserve and at most 4 GiB. The ballast is part of it.
type Reserve struct {
	Percent float64
	Bytes   int64
}

// LeastReserve is what a store needs to be opened on a full disk after a crash, in bytes: tables of two memtables that are
// left, and new logs. With less, nothing could be deleted to make room, as nothing is mounted.
const LeastReserve = 128 << 20

// Of is how many bytes that is on a file system of total bytes.
func (r Reserve) Of(total int64) int64 {
	switch {
	case r.Bytes > 0:
		return r.Bytes
	case r.Percent > 0:
		return int64(float64(total) / 100 * r.Percent)
	}
	return min(max(total/20, LeastReserve), 4<<30)
}

const (
	spaceEvery   = 200 * time.Millisecond // how long a measurement is believed
	spaceStep    = 16 << 20               // bytes taken after which it is not, however young
	ballastEvery = time.Second            // how often to look whether the ballast can be made anew
	kernelKeeps  = 16 << 20               // bytes; so much, but at most 2 %, of what is free ext4 keeps even from root
)

// space answers whether there is room for another block, and makes some for the index.
type space struct {
	reserve int64
	event   func(vm, event string, attrs ...any)
	ballast *ballast
	blame   func() []any // who fills it, as attributes of an event; may be nil

	left atomic.Int64 // bytes that may be taken before measuring anew
	due  atomic.Int64 // when to measure anew, ns since 1970
	low  atomic.Bool
	mu   sync.Mutex // one measurement at a time
}

func newSpace(dir string, r Reserve, event func(vm, event string, attrs ...any)) (*space, error) {
	p := &space{event: event}
	var err error
	if p.ballast, err = openBallast(dir); err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := p.statfs(&st); err != nil {
		return nil, errors.Join(Errorf(syscall.EIO, "measure the file system of %s: %w", dir, err), p.ballast.close())
	}
	p.reserve = r.Of(int64(st.Blocks) * st.Bsize)
	p.ballast.want = min(p.reserve, ballastSize)
	return p, nil
}

// statfs asks by a file that is open: the store's directory may be renamed.
func (p *space) statfs(st *unix.Statfs_t) error { return statfs(p.ballast.file, st) }

// measure returns the file system's size and what is free of it for guests and the reserve, in bytes.
func (p *space) measure() (total, free int64) {
	held := p.ballast.held.Load()
	var st unix.Statfs_t
	if err := p.statfs(&st); err != nil {
		return 0, 0 // as good as full
	}
	held = min(held, p.ballast.held.Load()) // what is given up or made meanwhile must not count twice
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail)*st.Bsize + held
}

func (p *space) tellLow(free int64) {
	attrs := []any{"free", free, "reserve", p.reserve}
	if p.blame != nil {
		attrs = append(attrs, p.blame()...)
	}
	p.event("", "space-low", attrs...)
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
			p.tellLow(free)
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

// usable is what this process can take of the file system, in bytes: root gets at what is kept for root.
func (p *space) usable() int64 {
	var st unix.Statfs_t
	if err := p.statfs(&st); err != nil {
		return 0
	}
	n := int64(st.Bavail) * st.Bsize
	if os.Geteuid() == 0 {
		n = max(n, int64(st.Bfree)*st.Bsize-min(kernelKeeps, int64(st.Blocks)*st.Bsize/50)-1<<20)
	}
	return n
}

// room says whether the index can have n bytes, and gives up what it takes of the ballast when that is to be now. Others may take
// that: no more is given up than is missing, and not again and again.
func (p *space) room(n int64, now bool) bool {
	if now {
		p.ballast.mu.Lock()
		defer p.ballast.mu.Unlock()
	}
	held, free := p.ballast.held.Load(), p.usable()
	if free >= n || free+held < n {
		return free >= n
	}
	if !now {
		return true
	}
	given := int64(0)
	for range 2 { // the first time less may have been free than the file system says
		m, err := p.ballast.releaseLocked(n - free + ballastSpare)
		if err != nil {
			p.event("", "ballast-failed", "error", err.Error())
			return false
		}
		given += m
		if free = p.usable(); free >= n {
			break
		}
	}
	p.event("", "ballast-released", "bytes", given, "needed", n)
	return free >= n
}

// restock makes as much of the ballast anew as there is room for, unless the index is about to take some.
func (p *space) restock(settled func() bool) {
	p.ballast.mu.Lock()
	defer p.ballast.mu.Unlock()
	if p.ballast.held.Load() >= p.ballast.want || !settled() {
		return
	}
	n, err := p.ballast.growLocked(p.usable())
	switch {
	case err != nil:
		p.event("", "ballast-failed", "error", err.Error())
	case n > 0:
		p.event("", "ballast-made", "bytes", n)
	}
}

// restockTime is how long guests wait for the ballast after a worker took over.
const restockTime = 2 * time.Second

// restockNow takes back what opening the index was given, before others find that there is room.
func (s *Store) restockNow() {
	b := s.space.ballast
	for end := time.Now().Add(restockTime); b.held.Load() < b.want && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s.index.Settled() {
			_ = s.index.UpdateFreeing(func(*blockmap.Tx) error { return nil }) // makes its next log, which comes first
			s.space.restock(s.index.Settled)
			return
		}
	}
}

// keepBallast restocks the ballast when the index has taken what it was given up for.
func (s *Store) keepBallast() {
	tick := time.NewTicker(ballastEvery)
	defer tick.Stop()
	for {
		s.space.restock(s.index.Settled)
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}
