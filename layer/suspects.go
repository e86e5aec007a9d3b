package layer

// Suspects: requests that ran when a worker died of itself, by a panic or a fault. Any of them may be the reason; which
// one it is shows when it does so again. They are counted in the session's memory, by who sees the worker die.

import (
	"sync/atomic"
	"unsafe"
)

// maxSuspects is as many as can run at once.
const maxSuspects = maxLoops + maxHanded

const offSuspects = offRunning + int(unsafe.Sizeof(runningTable{}))

// suspect is a request, and of how many workers it may have been the death.
type suspect struct{ request, deaths atomic.Uint64 }

// Blame makes suspects of all requests that run, or counts one more death to those that are, and returns how many that
// is. The worker is gone.
func (s *Session) Blame() int {
	running := make(map[uint64]bool)
	for _, request := range s.Running() {
		running[request] = true
	}
	n := len(running)
	var free, others []*suspect
	for i := range s.suspects {
		e := &s.suspects[i]
		switch request := e.request.Load(); {
		case request == 0:
			free = append(free, e)
		case running[request]:
			e.deaths.Add(1)
			delete(running, request)
		default:
			others = append(others, e)
		}
	}
	room := append(free, others...) // of those that did not run this time some go, with no other room: their callers may be dead
	for request := range running {
		room[0].deaths.Store(1)
		room[0].request.Store(request)
		room = room[1:]
	}
	return n
}

// Suspects are the deaths of each.
func (s *Session) Suspects() map[uint64]int {
	suspects := make(map[uint64]int)
	for i := range s.suspects {
		if request := s.suspects[i].request.Load(); request != 0 {
			suspects[request] = int(s.suspects[i].deaths.Load())
		}
	}
	return suspects
}

// Acquit takes a request out that has been answered: it will not come again.
func (s *Session) Acquit(request uint64) {
	for i := range s.suspects {
		if s.suspects[i].request.Load() == request {
			s.suspects[i].request.Store(0)
		}
	}
}

const _ = uint(sessionHeader - offSuspects - maxSuspects*int(unsafe.Sizeof(suspect{})))
