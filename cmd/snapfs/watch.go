package main

// Watching what takes its time: a machine's memory being saved, a scrub.

import (
	"encoding/json"
	"time"

	"github.com/snapfs/snapfs/fs"
)

// watchEvery is between two looks.
const watchEvery = 200 * time.Millisecond

// watch shows how far it is, by the status of a VM or mount, until the function it returns is called.
func (a *app) watch(p place, what string) (done func()) {
	if !isTerminal(a.stderr) {
		return func() {}
	}
	bar, stop := a.newProgress(what), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(watchEvery):
			}
			var status struct{ Progress *fs.Progress }
			if text, err := p.read("status"); err == nil && json.Unmarshal(text, &status) == nil && status.Progress != nil {
				bar.set(float64(status.Progress.Percent))
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
		bar.finish()
	}
}
