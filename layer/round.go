package layer

// Rounds: those who want the same layer flushed while it is being flushed share the next flush.

import "sync"

// rounds are a layer's flushes, each for all that asked before it began.
type rounds struct {
	mu   sync.Mutex
	next *round // the one that waits for its turn
}

type round struct {
	what want // by any that share it
	done chan struct{}
	err  error // once done is closed
}

// want is what a flush has to do beside making data durable.
type want struct {
	times  bool // those that alone changed, too
	commit bool // have the index know all of it
}

// join returns the next round, and whether the caller is the first to ask for it and has to carry it out.
func (s *rounds) join(what want) (r *round, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r = s.next; r == nil {
		r, leads = &round{done: make(chan struct{})}, true
		s.next = r
	}
	r.what.times = r.what.times || what.times
	r.what.commit = r.what.commit || what.commit
	return r, leads
}

// begin lets nobody join r any more.
func (s *rounds) begin(r *round) want {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	return r.what
}
