package main

// Progress: a bar for people, a line for each group, or for each step, for all others.

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far a run is: groups have a share of it, and steps.
type progress struct {
	mu                sync.Mutex
	bar               *progressbar.ProgressBar // nil without a terminal
	total, past       float64                  // shares
	group             string
	share             float64
	planned, finished int  // steps
	verbose           bool // a line for each step
}

// newProgress starts at nothing done of a total of shares.
func newProgress(total float64, verbose bool) *progress {
	p := &progress{total: total, verbose: verbose}
	if !verbose && term.IsTerminal(int(os.Stderr.Fd())) {
		p.bar = progressbar.NewOptions(1000, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetWidth(20),
			progressbar.OptionSetElapsedTime(true), progressbar.OptionSetPredictTime(false))
	}
	return p
}

func (p *progress) begin(group string, share float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.group, p.share, p.planned, p.finished = group, share, 0, -1
}

func (p *progress) plan(steps int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.planned += steps
}

// split divides the group's share between so many parts, of which the first has begun.
func (p *progress) split(parts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share /= float64(parts)
}

// next ends a part and begins another one.
func (p *progress) next() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.past += p.share
	p.planned, p.finished = 0, -1
}

// skip says that steps are left out.
func (p *progress) skip(steps int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished += steps
}

// position is how much is done, of 1.
func (p *progress) position() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.positionLocked()
}

func (p *progress) positionLocked() float64 {
	part := min(1, float64(max(0, p.finished))/float64(max(1, p.planned)))
	return (p.past + p.share*part) / p.total
}

// step says what is being done now.
func (p *progress) step(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished++
	if p.verbose {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.0"), p.group+": "+what)
	}
	if p.bar != nil {
		p.bar.Describe(p.group + ": " + what)
		_ = p.bar.Set(int(1000 * p.positionLocked()))
	}
}

// done ends a group with a line.
func (p *progress) done(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.past += p.share
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintln(os.Stderr, line)
}
