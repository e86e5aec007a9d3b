package integration

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var soakTime = flag.Duration("soak", 12*time.Second, "how long TestSoak puts its load on")

const (
	soakVMs   = 8
	soakKills = 5 * time.Second // from one kill to the next
	// soakSteady is from when on TestSoak compares the daemon at the end with the
	// daemon at the beginning: it takes a while until there is as much of everything
	// as there will be.
	soakSteady = 3 * time.Minute
)

// TestSoak has eight VMs with four disks each write, and read back what they wrote,
// while snapshots of each are made every second, deleted, cloned, previewed and
// reverted to, and workers are killed. In the last third none is killed any more, so
// that one grows old.
//
// No request fails, no disk and no snapshot holds anything else than it should, no
// worker ends but by a kill, and neither memory nor open files go on growing.
func TestSoak(t *testing.T) {
	s := &soak{T: t, m: newMount(t), began: time.Now()}
	load, end := context.WithTimeout(t.Context(), *soakTime)
	defer end()
	g, failed := errgroup.WithContext(t.Context())
	context.AfterFunc(failed, end)
	for i := range soakVMs {
		vm := newSoakVM(s, i)
		s.vms = append(s.vms, vm)
		g.Go(func() error { return vm.runDisks(load) })
		g.Go(func() error { return vm.runSnapshots(load) })
	}
	g.Go(func() error { return s.runWorkers(load) })
	g.Go(func() error { return s.runProgress(load) })
	require.NoError(t, g.Wait())
	s.loaded = s.elapsed()
	s.settle()
	s.verify()
	s.closeAndVerify()
	s.report()
}

// soak is the load, and what came of it.
type soak struct {
	*testing.T
	m     *mount
	vms   []*soakVM
	began time.Time

	killed      atomic.Int64
	fioRuns     atomic.Int64
	written     atomic.Int64 // bytes
	verified    atomic.Int64 // bytes, by fio
	snapshots   atomic.Int64
	deleted     atomic.Int64
	renamed     atomic.Int64
	reverts     atomic.Int64
	previews    atomic.Int64
	clones      atomic.Int64
	compared    atomic.Int64 // bytes of snapshots, clones and of what was reverted to
	requests    durations    // the longest of each run of fio
	takeOver    durations    // until the next worker answered
	underKills  record       // of workers about to be killed
	undisturbed record       // of the last worker
	supervisor  record
	loaded      time.Duration // until the last fio had ended
	busy        mountStatus   // at the end of the load
	settled     mountStatus   // when all that was deleted is given back
	settling    time.Duration // until then
	umount      time.Duration
	check       time.Duration
}

// elapsed is how long it is since the load began.
func (s *soak) elapsed() time.Duration { return time.Since(s.began) }

// sinceKills is when the last worker is to be killed.
func sinceKills() time.Duration { return *soakTime * 2 / 3 }

// runWorkers kills one worker after the other, as long as they are to be, and keeps
// records of their memory and open files.
func (s *soak) runWorkers(ctx context.Context) error {
	kill := time.NewTicker(min(soakKills, *soakTime/10))
	defer kill.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			s.supervisor.add(s.elapsed(), s.m.Cmd.Process.Pid)
			if s.elapsed() > sinceKills() {
				s.undisturbed.add(s.elapsed(), s.m.Worker())
			}
		case <-kill.C:
			if s.elapsed() > sinceKills() {
				continue
			}
			if err := s.killWorker(); err != nil {
				return err
			}
		}
	}
}

// killWorker does so, and returns once the next one answers.
func (s *soak) killWorker() error {
	pid, err := s.m.answering()
	if err != nil {
		return err
	}
	s.underKills.add(s.elapsed(), pid)
	began := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	s.killed.Add(1)
	_, err = s.m.answeringAfter(pid)
	s.takeOver.add(time.Since(began))
	return err
}

// runProgress says how it goes.
func (s *soak) runProgress(ctx context.Context) error {
	tick := time.NewTicker(min(30*time.Second, *soakTime/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		st, err := s.m.status()
		if err != nil {
			return err
		}
		if err := s.noFailures(); err != nil {
			return err
		}
		now := take(st.WorkerPID)
		s.Logf("%3.0f s: %d kills, %d snapshots, %d deleted, %d reverts, %d previews, %d clones, %d MiB written; worker: %v; %d layers (%d retired), %d MiB to reclaim",
			s.elapsed().Seconds(), s.killed.Load(), s.snapshots.Load(), s.deleted.Load(), s.reverts.Load(), s.previews.Load(), s.clones.Load(),
			s.written.Load()>>20, now, st.Layers, st.RetiredLayers, st.ReclaimBytes>>20)
	}
}

// noFailures looks for events that tell of one.
func (s *soak) noFailures() error {
	text, err := os.ReadFile(s.m.path(".snapshots", "log"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasSuffix(f[1], "-failed") {
			return fmt.Errorf("the daemon's log says: %s", line)
		}
	}
	return nil
}

// settle waits until all is given back that nobody sees any more.
func (s *soak) settle() {
	began := time.Now()
	var err error
	s.busy, err = s.m.status()
	require.NoError(s, err)
	for still := 0; still < 3; still++ { // in a row nothing changes, and nothing is known to be dead
		before := s.settled
		time.Sleep(300 * time.Millisecond)
		s.settled, err = s.m.status()
		require.NoError(s, err)
		if s.settled.ReclaimBytes > 0 || s.settled.Layers != before.Layers || s.settled.LayerBytes != before.LayerBytes {
			still = -1
		}
		require.Less(s, time.Since(began), 10*patience, "%d MiB are not given back", s.settled.ReclaimBytes>>20)
	}
	s.settling = time.Since(began)
}

// verify looks for what went wrong and nobody noticed.
func (s *soak) verify() {
	st, err := s.m.status()
	require.NoError(s, err)
	require.EqualValues(s, s.killed.Load(), st.Restarts, "a worker ended by itself, the last one by: %s", st.LastExit)
	require.NoError(s, s.noFailures())
}

// closeAndVerify compares everything with what it was, when the store has been closed, checked, and opened.
func (s *soak) closeAndVerify() {
	var heads []content
	for _, vm := range s.vms {
		now, err := vm.read(vm.dir)
		require.NoError(s, err)
		heads = append(heads, now)
	}
	served, began := s.m.Daemon, time.Now()
	s.m.stop()
	s.umount = time.Since(began)
	for _, said := range []string{"panic", "fatal error", "fault"} {
		require.NotContains(s, served.Stderr.String(), said)
	}
	began = time.Now()
	s.m.check()
	s.check = time.Since(began)
	s.m.start()
	for i, vm := range s.vms {
		require.NoError(s, vm.compare("its files", vm.dir, heads[i]))
		require.NoError(s, vm.verifyAll())
	}
}

// report prints what has been done and compares the daemon's beginnings with its end.
func (s *soak) report() {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(what string, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	row("load", "%.0f s; workers killed in the first %.0f", s.loaded.Seconds(), sinceKills().Seconds())
	row("workers killed", "%d; the next one answered after %v", s.killed.Load(), &s.takeOver)
	row("fio", "%d runs, %d MiB written, %d MiB verified; the longest request of each: %v", s.fioRuns.Load(), s.written.Load()>>20, s.verified.Load()>>20, &s.requests)
	row("snapshots", "%d made, %d deleted, %d renamed", s.snapshots.Load(), s.deleted.Load(), s.renamed.Load())
	row("reverts, previews, clones", "%d, %d, %d", s.reverts.Load(), s.previews.Load(), s.clones.Load())
	row("compared", "%d MiB of snapshots and of what was made of them", s.compared.Load()>>20)
	row("errors", "0")
	row("layers", "%d when the load ended; %d after %.0f s, %d of them retired but needed, %d MiB in all", s.busy.Layers,
		s.settled.Layers, s.settling.Seconds(), s.settled.RetiredLayers, s.settled.LayerBytes>>20)
	row("umount, check", "%v, %v", s.umount.Round(time.Millisecond), s.check.Round(time.Millisecond))
	for _, r := range []struct {
		what     string
		of       *record
		from, to time.Duration
	}{
		{"workers about to be killed", &s.underKills, 0, sinceKills()},
		{"the last worker", &s.undisturbed, sinceKills(), *soakTime},
		{"supervisor", &s.supervisor, 0, *soakTime},
	} {
		first, last := r.of.ends(r.from, r.to)
		row(r.what, "%v at first, %v at last", first, last)
		if *soakTime >= soakSteady {
			defer func() { require.NoError(s, last.notAbove(first), r.what) }()
		}
	}
	require.NoError(s, w.Flush())
	s.Logf("\n%s", text.String())
}
