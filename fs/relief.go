package fs

// Relief. The loops do by themselves what should not wait for a disk, and now and then the kernel makes them wait
// nevertheless: in a WRITE for a disk that is slower than those who write to it, in a READ for a place in the disk's
// queue. With all loops waiting for one VM's disk nobody would serve the other VMs, not even from memory. So somebody
// watches them: if more than half of them have waited for a while, all reads and writes go to goroutines until the disk is
// itself again, and further loops stand in for those that wait.

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

const (
	watchEvery = 10 * time.Millisecond
	watchIdle  = 50 * time.Millisecond // when nothing happened
	stuckTimes = 2                     // a loop that is at the same request when looked at so often again waits
	slowIO     = 20 * time.Millisecond // a read or write that takes longer means that the disk is still slow
	slowTime   = 2 * time.Second       // without one it is no longer
)

// relief is what loops and those who go on with their requests know of it.
type relief struct {
	slow  atomic.Bool   // loops read and write nothing by themselves
	begun atomic.Uint64 // reads and writes in goroutines
	ended atomic.Uint64 // likewise
	late  atomic.Uint64 // those of them that took long
	over  chan struct{}
}

// begin notes that a goroutine reads or writes, and returns what is to be called when it has.
func (r *relief) begin() (end func()) {
	r.begun.Add(1)
	began := time.Now()
	return func() {
		r.ended.Add(1)
		if time.Since(began) > slowIO {
			r.late.Add(1)
		}
	}
}

// watchman watches the loops of a session.
type watchman struct {
	s     *Session
	loops []*watched
	extra int // loops that were started beside the usual ones, ever

	keeper keeper

	slowAt      time.Time // when something was last slow
	ended, late uint64    // the session's, when last looked at
}

// watched is a loop, and what it was at when it was last looked at.
type watched struct {
	*loop
	at    uint64
	times int // it was the same
}

// watch runs until the session ends.
func (w *watchman) watch() {
	pause := watchEvery
	defer w.keeper.release()
	for {
		select {
		case <-w.s.relief.over:
			return
		case <-time.After(pause):
		}
		pause = watchIdle
		if w.look() {
			pause = watchEvery
		}
		w.keeper.look(time.Now(), w.s.turns.came.Load())
	}
}

// look sees to it that somebody serves, and says whether anybody does anything.
func (w *watchman) look() (busy bool) {
	w.loops = slices.DeleteFunc(w.loops, func(l *watched) bool { return l.ended.Load() })
	usual, waiting := len(w.s.devices), 0
	for _, l := range w.loops {
		if l.isStuck() && l.sleeps() {
			waiting++
		}
		busy = busy || l.at != 0
	}
	slow := w.stillSlow()
	if waiting > usual/2 {
		w.become(true)
		for free := len(w.loops) - waiting; free < (usual+1)/2; free++ {
			w.relieve()
		}
	} else if waiting == 0 && !slow {
		w.become(false)
	}
	return busy || slow
}

// become tells the loops whether the disk is slow. The event is not waited for: it is written to that disk.
func (w *watchman) become(slow bool) {
	if slow {
		w.slowAt = time.Now()
	}
	if w.s.relief.slow.Swap(slow) == slow {
		return
	}
	what := map[bool]string{true: "slow", false: "ok"}[slow]
	w.s.running.Go(func() { w.s.files.log.Add("", "disk-"+what) })
}

// stillSlow says whether anything that goroutines read and write was slow lately.
func (w *watchman) stillSlow() bool {
	r := &w.s.relief
	ended, late := r.ended.Load(), r.late.Load()
	if late != w.late || ended == w.ended && ended != r.begun.Load() {
		w.slowAt = time.Now()
	}
	w.ended, w.late = ended, late
	return r.slow.Load() && time.Since(w.slowAt) < slowTime
}

// isStuck says whether the loop is at what it was at for some time.
func (l *watched) isStuck() bool {
	at := l.slot.Load()
	if at == 0 || at != l.at {
		l.at, l.times = at, 0
		return false
	}
	l.times++
	return l.times >= stuckTimes
}

// sleeps says whether a loop's thread waits for something: it does not, if it only waits for a processor.
func (l *loop) sleeps() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", l.thread.Load()))
	if err != nil {
		return false
	}
	state := stat[bytes.LastIndexByte(stat, ')')+2:]
	return state[0] == 'D' || state[0] == 'S'
}

// relieve starts another loop. It ends with the first request after the disk is itself again.
func (w *watchman) relieve() {
	session := w.s.files.store.Session()
	l := &loop{s: w.s, dev: w.s.devices[w.extra%len(w.s.devices)], slot: session.LoopSlot(len(w.s.devices) + w.extra), extra: true}
	w.extra++
	w.loops = append(w.loops, &watched{loop: l})
	w.s.running.Go(func() { _ = l.run() }) // a usual one fails likewise
}
