package main

// Progress: for people only, and only of what takes over a second.

import (
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// quietFor is how long something may take without a word.
const quietFor = time.Second

// isTerminal reports whether a person is at the other end of one of the command's streams.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress is a bar on stderr from 0 to 100 %, or a turning wheel where nobody knows how long it will take.
type progress struct {
	wheel   bool
	percent atomic.Uint64 // bits of a float64
	stop    chan struct{}
	done    sync.WaitGroup
}

// newProgress starts a bar. It shows nothing without a terminal, and nothing before quietFor is over.
func (a *app) newProgress(what string) *progress {
	p := &progress{stop: make(chan struct{})}
	p.start(a, progressbar.NewOptions(10000,
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionFullWidth()))
	return p
}

// working shows a wheel until the function it returns is called.
func (a *app) working(what string) (done func()) {
	p := &progress{wheel: true, stop: make(chan struct{})}
	p.start(a, progressbar.NewOptions(-1,
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetSpinnerChangeInterval(0))) // it turns when we render it
	return p.finish
}

func (p *progress) start(a *app, bar *progressbar.ProgressBar) {
	if isTerminal(a.stderr) {
		p.done.Go(func() { p.show(bar) })
	}
}

// set moves the bar to so many percent.
func (p *progress) set(percent float64) { p.percent.Store(math.Float64bits(percent)) }

// finish takes the bar away.
func (p *progress) finish() {
	close(p.stop)
	p.done.Wait()
}

func (p *progress) show(bar *progressbar.ProgressBar) {
	defer func() { _ = bar.Clear() }()
	next := time.After(quietFor)
	for {
		select {
		case <-p.stop:
			return
		case <-next:
		}
		if p.wheel {
			_ = bar.RenderBlank()
		} else {
			_ = bar.Set(int(math.Float64frombits(p.percent.Load()) * 100))
		}
		next = time.After(200 * time.Millisecond)
	}
}
