package main

// Watching a machine's memory being saved, which takes its time.

import (
	"encoding/json"
	"time"

	"github.com/snapfs/snapfs/fs"
)

// watchEvery is between two looks.
const watchEvery = 200 * time.Millisecond

// watchMemory shows how far it is until the function it returns is called.
func (a *app) watchMemory(p place) (done func()) {
	if !isTerminal(a.stderr) {
		return func() {}
	}
	bar, stop := a.newProgress("saving the memory"), make(chan struct{})
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
