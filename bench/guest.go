package main

// A guest that writes while snapshots are taken, and notes what it notices.

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// workingSet is what the guest writes to, in bytes. It lies at the disk's start.
const workingSet = 64 * mib

const (
	rest  = 40 * time.Millisecond  // between two snapshots
	pause = 200 * time.Microsecond // between two writes of a writer
)

// guest writes blocks at random places of the working set, in turn with pauses.
type guest struct {
	running  sync.WaitGroup
	watching atomic.Bool // the writes count
	ended    atomic.Bool
	writers  []*writer
}

type writer struct {
	s    *scope
	took series // µs of each write that counts
}

// newGuest starts one on a disk, with two writers.
func newGuest(s *scope, path string) *guest {
	g := new(guest)
	for range 2 {
		w := &writer{s: s}
		g.writers = append(g.writers, w)
		d := openDisk(s, path, unix.O_DIRECT)
		g.running.Go(func() { s.do(func() { w.run(g, d) }) })
	}
	return g
}

func (w *writer) run(g *guest, d *disk) {
	defer d.release()
	for !g.ended.Load() {
		counts := g.watching.Load()
		began := time.Now()
		d.scatter(1, workingSet)
		if counts || g.watching.Load() {
			w.took = append(w.took, time.Since(began).Seconds()*1e6)
		}
		time.Sleep(pause)
	}
}

// watch has the writes that overlap it count.
func (g *guest) watch(f func()) {
	g.watching.Store(true)
	f()
	g.watching.Store(false)
}

// stop ends the guest and returns how many µs each write took that counts.
func (g *guest) stop() (all series) {
	g.ended.Store(true)
	g.running.Wait()
	for _, w := range g.writers {
		all = append(all, w.took...)
	}
	return all
}
