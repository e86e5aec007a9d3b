package main

// Saving a machine's memory as part of its snapshot.

import (
	"time"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/quiesce"
)

// tellEvery is between two lines of the log on how far it is.
const tellEvery = time.Second

// saving is a memory that is being saved.
type saving struct {
	*quiesce.Memory
	told time.Time
}

// prepareMemory makes the file that takes the memory. The snapshot itself is prepared when the machine stands still:
// until then, all that runs goes on.
func (a *attempt) prepareMemory() (err error) {
	a.request.Image, err = a.vm.Store().NewImage(a.ram)
	if err == nil {
		a.memory.File, a.memory.told = a.request.Image.File(), time.Now()
		a.memory.Memory.Progress = a.memoryProgress
		a.setProgress(&fs.Progress{Snapshot: a.request.Name, What: "memory"})
	}
	return err
}

// memoryProgress keeps ahead of the image as it grows, and tells how far it is. An error ends it.
func (a *attempt) memoryProgress(p quiesce.Progress) error {
	written, err := a.request.Image.Grow(p.Remaining)
	if err != nil || p.Transferred == 0 {
		return err
	}
	percent := 0
	if a.ram > 0 {
		percent = int(max(0, min(100, 100-100*p.Remaining/a.ram)))
	}
	a.setProgress(&fs.Progress{Snapshot: a.request.Name, What: "memory", Percent: percent})
	if time.Since(a.memory.told) >= tellEvery {
		a.memory.told = time.Now()
		a.event(a.vm.Name(), "memory-saving", "snapshot", a.request.Name, "pass", p.Pass, "written", written, "remaining", p.Remaining)
	}
	return nil
}

// discardMemory removes the image unless the snapshot has it.
func (a *attempt) discardMemory() {
	if a.request.Image == nil {
		return
	}
	a.setProgress(nil)
	if err := a.request.Image.Discard(); err != nil {
		a.event(a.vm.Name(), "memory-left", "error", err)
	}
}
