package layer

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// waiting says whether wait is still waiting after those who would let it go had plenty of time.
func waiting(done chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

func waitInBackground(e *epochs) chan struct{} {
	done := make(chan struct{})
	go func() {
		e.wait()
		close(done)
	}()
	return done
}

func TestEpochsWaitForThoseBefore(t *testing.T) {
	e := new(epochs)
	e.wait() // nobody is there

	first, second := e.enter(), e.enter()
	done := waitInBackground(e)
	require.True(t, waiting(done))
	e.leave(first)
	require.True(t, waiting(done), "the second is still there")
	e.leave(second)
	<-done
}

func TestEpochsDoNotWaitForThoseAfter(t *testing.T) {
	e := new(epochs)
	first := e.enter()
	now := e.now.Load()
	done := waitInBackground(e)
	for e.now.Load() == now { // until the wait has begun
		time.Sleep(time.Millisecond)
	}
	later := e.enter()
	e.leave(first)
	<-done
	e.leave(later)
}

// What is freed after a wait is not used any more by anybody who could have looked it up before. The race detector and
// the check of the value would both notice.
func TestEpochsGuardWhatIsFreed(t *testing.T) {
	type resource struct{ freed atomic.Bool }
	e := new(epochs)
	var current atomic.Pointer[resource]
	current.Store(new(resource))
	var users, stop = sync.WaitGroup{}, atomic.Bool{}
	var bad atomic.Int64
	for range 4 {
		users.Go(func() {
			for !stop.Load() {
				slot := e.enter()
				r := current.Load()
				for range 10 {
					if r.freed.Load() {
						bad.Add(1)
					}
				}
				e.leave(slot)
				runtime.Gosched()
			}
		})
	}
	for range 100 {
		old := current.Swap(new(resource))
		e.wait()
		old.freed.Store(true)
	}
	stop.Store(true)
	users.Wait()
	require.Zero(t, bad.Load(), "uses of what had been freed")
}

// More requests than there are slots: whoever is too many waits for one that ends, and all come through.
func TestEpochsMoreThanSlots(t *testing.T) {
	e := new(epochs)
	slots := make([]int, epochSlots)
	seen := make(map[int]bool)
	for i := range slots {
		slots[i] = e.enter()
		require.False(t, seen[slots[i]], "a slot has one request")
		seen[slots[i]] = true
	}
	entered := make(chan int)
	go func() { entered <- e.enter() }()
	e.leave(slots[17])
	require.Equal(t, slots[17], <-entered)
}
