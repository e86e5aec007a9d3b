package layer

// Things that are dear to find out, and asked for at any time.

import (
	"sync"
	"time"
)

// paceShare bounds what finding out costs, however often it is asked for: one part in so many of a processor.
const paceShare = 20

// paced remembers a value, and has it found out anew when that last took less than a part in paceShare of the time since.
type paced[T any] struct {
	mu      sync.Mutex // guards what follows
	value   T
	known   bool
	next    time.Time     // it is not found out anew before
	finding chan struct{} // closed when somebody has; nil: nobody is about to
}

// get returns what is known by the end of a patience, perhaps nothing yet. start runs find in the background, or says
// that nothing is begun any more; if find fails, the value stays as it is.
func (p *paced[T]) get(patience time.Duration, start func(func()) bool, find func() (T, error)) (value T, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finding == nil && time.Now().After(p.next) {
		finding := make(chan struct{})
		if start(func() { p.find(finding, find) }) {
			p.finding = finding
		}
	}
	if finding := p.finding; finding != nil && patience > 0 {
		p.mu.Unlock()
		select {
		case <-finding:
		case <-time.After(patience):
		}
		p.mu.Lock()
	}
	return p.value, p.known
}

func (p *paced[T]) find(finding chan struct{}, find func() (T, error)) {
	began := time.Now()
	value, err := find()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.value, p.known = value, true
	}
	p.next = time.Now().Add(paceShare * time.Since(began))
	p.finding = nil
	close(finding)
}
