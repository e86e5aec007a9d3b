package layer

// Epochs: how long a request may go on using a block or a descriptor that it looked up.

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	epochSlots = 1 << 14 // more requests than the kernel has under way at once; beyond it they spin
	epochHot   = 16      // slots tried first, so that few cache lines are touched
)

// epochs lets requests say that they are looking at the store's layers, without a lock. A request enters before its
// first lookup and leaves after its last pread or pwrite; wait returns when all who entered before it have left.
// What is to be freed must be out of every lookup's reach before wait is called.
type epochs struct {
	now   atomic.Uint64
	slots [epochSlots]struct {
		epoch atomic.Uint64 // 0: free
		_     [56]byte
	}
}

// enter returns the slot to give to leave.
func (e *epochs) enter() int {
	i := int(rand.Uint32() % epochHot)
	for tries := 1; ; tries++ {
		slot := &e.slots[i].epoch
		// Whoever reads a stale epoch here publishes it after a wait that did not see the slot; its lookups come
		// later still, and find nothing of what that wait was for.
		if slot.Load() == 0 && slot.CompareAndSwap(0, e.now.Load()+1) {
			return i
		}
		i = (i + 1) % epochSlots
		switch {
		case tries == epochHot:
			i = int(rand.Uint32() % epochSlots) // where many wait for a disk, the first ones are taken
		case tries%epochSlots == 0:
			runtime.Gosched()
		}
	}
}

func (e *epochs) leave(slot int) { e.slots[slot].epoch.Store(0) }

// wait returns when every request that had entered before the call has left. The caller holds no lock.
func (e *epochs) wait() {
	target := e.now.Add(1) + 1
	for i := range e.slots {
		pause := time.Microsecond
		for {
			epoch := e.slots[i].epoch.Load()
			if epoch == 0 || epoch >= target {
				break
			}
			time.Sleep(pause)
			pause = min(2*pause, time.Millisecond)
		}
	}
}
