package bench

// What a guest notices of a snapshot: how long its writes wait. Must depend neither on the disk's size nor on depth.

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// workingSet is what the guest of these benchmarks writes to, in bytes. It lies at the disk's start.
const workingSet = 64 * mib

const (
	rest  = 40 * time.Millisecond  // between two snapshots
	pause = 200 * time.Microsecond // between two writes of a writer
)

// pauseCase is a disk that is snapshotted while its guest writes.
type pauseCase struct {
	size  int64
	depth int
}

func (c pauseCase) name() string {
	size := fmt.Sprintf("%dGiB", c.size/gib)
	if c.size >= tib {
		size = fmt.Sprintf("%dTiB", c.size/tib)
	}
	return fmt.Sprintf("%s,depth=%d", size, c.depth)
}

// BenchmarkSnapshotPause takes snapshots of a VM whose guest writes a few thousand blocks a second. The pause is the
// longest write that a snapshot overlaps; to compare with, the longest one in a time as long, if possible, before it.
func BenchmarkSnapshotPause(b *testing.B) {
	depth, rounds := 300, 60
	if testing.Short() {
		depth, rounds = 30, 15
	}
	m := newMount(b, filepath.Join(b.TempDir(), "store"))
	for _, c := range []pauseCase{{gib, 0}, {tib, 0}, {gib, depth}, {tib, depth}} {
		b.Run(c.name(), func(b *testing.B) {
			m.measurePauses(b, c, rounds)
		})
	}
}

// measurePauses makes the disk and reports how long creating a snapshot takes, what the guest notices of it, and
// how long a write takes otherwise.
func (m *mount) measurePauses(b *testing.B, c pauseCase, rounds int) {
	vm := c.name()
	m.vm(vm)
	d := newDisk(b, m.path(vm, "disk"), c.size)
	d.fill(0, workingSet)
	m.deepen(vm, d, c.depth, 50, c.size) // all over the disk
	d.scatter(2000, c.size)
	d.warm(workingSet)
	require.NoError(b, d.Sync())

	guest := newGuest(b, d.Name(), 2)
	var creating, paused, quiet series
	repeat(b, rounds, func(i int) {
		rested := time.Now()
		time.Sleep(rest)
		began := time.Now()
		m.snapshot(vm, fmt.Sprintf("p%d", i))
		ended := time.Now()
		creating = append(creating, ended.Sub(began).Seconds()*1e3)
		paused = append(paused, guest.longest(began, ended))
		quiet = append(quiet, guest.longest(began.Add(-min(ended.Sub(began), began.Sub(rested))), began))
	})
	writes := guest.stop()
	d.release()

	b.ReportMetric(creating.median(), "create-ms")
	b.ReportMetric(paused.median(), "pause-µs")
	b.ReportMetric(paused.quantile(0.9), "pause-p90-µs")
	b.ReportMetric(quiet.median(), "quiet-µs")
	b.ReportMetric(writes.median(), "write-µs")
	b.ReportMetric(writes.quantile(0.99), "write-p99-µs")
	b.ReportMetric(writes.quantile(1), "write-max-µs")
}

// guest writes blocks at random places of the working set and notes how long each of them takes.
type guest struct {
	running sync.WaitGroup
	ended   atomic.Bool
	writers []*writer
}

type writer struct {
	mu     sync.Mutex
	writes []span
}

// span is when a write began and ended.
type span struct{ began, ended time.Time }

func newGuest(t testing.TB, path string, writers int) *guest {
	t.Helper()
	g := new(guest)
	for range writers {
		w := new(writer)
		g.writers = append(g.writers, w)
		d := openDisk(t, path)
		g.running.Go(func() {
			defer d.release()
			for !g.ended.Load() {
				w.write(d)
				time.Sleep(pause)
			}
		})
	}
	t.Cleanup(func() { g.stop() }) // before the disks are closed
	return g
}

func (w *writer) write(d *disk) {
	began := time.Now()
	d.scatter(1, workingSet)
	s := span{began, time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, s)
}

// longest returns how many µs the longest write took that overlaps a time. It waits until each writer has one that
// ended later, for only then are all of them known.
func (g *guest) longest(from, to time.Time) float64 {
	var longest time.Duration
	for _, w := range g.writers {
		for !w.reached(to) {
			time.Sleep(100 * time.Microsecond)
		}
		longest = max(longest, w.longest(from, to))
	}
	return float64(longest.Nanoseconds()) / 1e3
}

func (w *writer) reached(t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.writes) > 0 && w.writes[len(w.writes)-1].ended.After(t)
}

func (w *writer) longest(from, to time.Time) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.writes) - 1; i >= 0 && w.writes[i].ended.After(from); i-- {
		if w.writes[i].began.Before(to) {
			longest = max(longest, w.writes[i].ended.Sub(w.writes[i].began))
		}
	}
	return longest
}

// stop ends the guest and returns how many µs each write took.
func (g *guest) stop() (all series) {
	g.ended.Store(true)
	g.running.Wait()
	for _, w := range g.writers {
		for _, s := range w.writes {
			all = append(all, float64(s.ended.Sub(s.began).Nanoseconds())/1e3)
		}
	}
	return all
}
