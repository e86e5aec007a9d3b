package layer

// Rounds: those who want the same layer flushed while it is being flushed share the next flush.

import "sync"

// rounds are a layer's flushes, each for all that asked before it began.
type rounds struct {
	mu   sync.Mutex
	next *round // the one that waits for its turn
}

type round struct {
	dataOnly bool // all that share it want only the data
	done     chan struct{}
	err      error // once done is closed
}

// join returns the next round, and whether the caller is the first to ask for it and has to carry it out.
func (s *rounds) join(dataOnly bool) (r *round, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r = s.next; r == nil {
		r, leads = &round{dataOnly: true, done: make(chan struct{})}, true
		s.next = r
	}
	r.dataOnly = r.dataOnly && dataOnly
	return r, leads
}

// begin lets nobody join r any more.
func (s *rounds) begin(r *round) (dataOnly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	return r.dataOnly
}
