package main

// A guest that does one thing again and again, and notes what it notices of all else.

import (
	"sync"
	"sync/atomic"
	"time"
)

// workingSet is what guests ask for, in bytes. It lies at the disk's start.
const workingSet = 64 * mib

// guest is one that is running.
type guest struct {
	request func(*disk)
	pause   time.Duration // between two requests of a task
	running sync.WaitGroup
	ended   atomic.Bool
	stage   atomic.Int64 // counts how often a watch has begun or ended: odd while there is one
	tasks   []*task
}

// task is what one of its processors does.
type task struct {
	took map[int64]series // µs of each request, by the number of the watch
}

// start puts so many tasks on a disk, opened with some flags.
func (g *guest) start(s *scope, path string, flags, tasks int) {
	for range tasks {
		t := &task{took: make(map[int64]series)}
		g.tasks = append(g.tasks, t)
		d := openDisk(s, path, flags)
		g.running.Go(func() { s.do(func() { t.run(g, d) }) })
	}
}

func (t *task) run(g *guest, d *disk) {
	defer d.release()
	for !g.ended.Load() {
		first := g.stage.Load()
		began := time.Now()
		g.request(d)
		took := time.Since(began).Seconds() * 1e6
		for at := first | 1; at <= g.stage.Load(); at += 2 {
			t.took[at/2] = append(t.took[at/2], took)
		}
		time.Sleep(g.pause)
	}
}

// watch has the requests that overlap it count.
func (g *guest) watch(f func()) {
	g.stage.Add(1)
	f()
	g.stage.Add(1)
}

// stop ends the guest and returns how many µs each request took, for each watch.
func (g *guest) stop() (watches []series) {
	g.ended.Store(true)
	g.running.Wait()
	watches = make([]series, g.stage.Load()/2)
	for _, t := range g.tasks {
		for i := range watches {
			watches[i] = append(watches[i], t.took[int64(i)]...)
		}
	}
	return watches
}

// every joins each n-th of some watches, from one on.
func every(n, from int, watches []series) (all series) {
	for i := from; i < len(watches); i += n {
		all = append(all, watches[i]...)
	}
	return all
}
