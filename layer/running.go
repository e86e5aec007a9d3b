package layer

// Which requests a worker has begun and not finished. The table is in the session's memory, so that when a worker dies
// of one of them it is known which it can have been.
//
// A request is noted by the number that the kernel gave it, without the bit that says it was sent again. Whoever runs it
// writes into a slot of his own: noting costs a store at its beginning, and one at its end.

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	maxLoops  = 64
	maxHanded = 2<<10 - maxLoops
)

// runningTable lies in the header of the session's memory. A reader loop's slot has a cache line of its own.
type runningTable struct {
	loops [maxLoops]struct {
		Slot
		_ [56]byte
	}
	handed [maxHanded]Slot
}

// Slot holds the number of a request that is running; 0: none.
type Slot struct{ atomic.Uint64 }

const offRunning = 8 << 10

// freeSlots are those for requests that a loop handed on: the numbers of free ones.
type freeSlots struct {
	mu   sync.Mutex
	free []int32
}

// resetRunning forgets what ran: before a worker begins.
func (s *Session) resetRunning() {
	for i := range s.running.loops {
		s.running.loops[i].Store(0)
	}
	for i := range s.running.handed {
		s.running.handed[i].Store(0)
	}
}

// LoopSlot is for the request that a reader loop is at. Loops beyond 64 note nothing.
func (s *Session) LoopSlot(loop int) *Slot {
	if loop >= maxLoops {
		return new(Slot)
	}
	return &s.running.loops[loop].Slot
}

// NoteHanded notes a request that goes on beside the loop that read it, until the slot is given back. With some 2,000 of them
// under way, more are not noted.
func (s *Session) NoteHanded(request uint64) (slot int32) {
	f := &s.freeSlots
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.free) == 0 {
		return -1
	}
	slot = f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	s.running.handed[slot].Store(request)
	return slot
}

// EndHanded gives a slot back.
func (s *Session) EndHanded(slot int32) {
	if slot < 0 {
		return
	}
	f := &s.freeSlots
	f.mu.Lock()
	defer f.mu.Unlock()
	s.running.handed[slot].Store(0)
	f.free = append(f.free, slot)
}

func (f *freeSlots) fill() {
	for i := int32(maxHanded - 1); i >= 0; i-- {
		f.free = append(f.free, i)
	}
}

// Running lists the requests that are noted.
func (s *Session) Running() (requests []uint64) {
	note := func(slot *Slot) {
		if request := slot.Load(); request != 0 {
			requests = append(requests, request)
		}
	}
	for i := range s.running.loops {
		note(&s.running.loops[i].Slot)
	}
	for i := range s.running.handed {
		note(&s.running.handed[i])
	}
	return requests
}

// It lies in the header, behind what is there already: the layout of the rest is as it was.
const _ = uint(offRunning - unsafe.Sizeof(sessionHead{}))
