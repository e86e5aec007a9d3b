package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// childOf is a supervisor's worker, 0 between two of them.
func childOf(supervisor int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return pid
		}
	}
	return 0
}

// A mount that is asked to end ends with its last user, whoever serves it then, and is detached by the second signal.
func TestAskedBeforeTheWorkerDied(t *testing.T) {
	for _, detaches := range []bool{false, true} {
		t.Run(fmt.Sprint("detaches=", detaches), func(t *testing.T) {
			store, point := newMount(t)
			f, err := os.OpenFile(filepath.Join(newVM(t, point, "web", "hello"), "root.img"), os.O_RDWR, 0)
			require.NoError(t, err)
			defer f.Close()
			daemon := watchDaemon(point)
			defer daemon.close()
			p := statusOf(t, point)
			isTold := func(times int) {
				t.Helper()
				require.Eventually(t, func() bool { return strings.Count(readLog(t, store), "asked to end, serving on") == times },
					patience, 10*time.Millisecond)
			}
			require.NoError(t, unix.Kill(p.Supervisor, unix.SIGTERM))
			isTold(1)
			require.NoError(t, unix.Kill(p.Worker, unix.SIGKILL))
			isTold(2)
			done(t, "upgrade", point)
			isTold(3)
			if detaches {
				require.NoError(t, unix.Kill(p.Supervisor, unix.SIGTERM))
				require.Eventually(t, func() bool { return !isMounted(t, point) }, patience, 10*time.Millisecond)
				other := filepath.Join(t.TempDir(), "other")
				mount(t, other, point)
				require.NoError(t, unix.Kill(childOf(p.Supervisor), unix.SIGKILL))
				_, err = f.WriteAt([]byte("J"), 0)
				require.NoError(t, err)
				require.NoError(t, unix.Kill(p.Supervisor, unix.SIGTERM))
			}
			require.NoError(t, f.Close())
			requireEnd(t, daemon)
			require.Equal(t, detaches, isMounted(t, point), "what is at its place by now is another's")
		})
	}
}

// Signals that a worker is sent by mistake, as by who has all daemons of that name read their settings anew, do nothing. One
// that ends a daemon means the mount, as ever.
func TestStraySignalsToTheWorker(t *testing.T) {
	store, point := newMount(t)
	f, err := os.OpenFile(filepath.Join(newVM(t, point, "web", "hello"), "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	daemon := watchDaemon(point)
	defer daemon.close()
	worker := daemonOf(t, point)
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2} {
		for range 3 {
			require.NoError(t, unix.Kill(worker, sig))
			_, err = f.WriteAt([]byte("J"), 0)
			require.NoError(t, err)
		}
	}
	require.NoError(t, unix.Kill(worker, unix.SIGTERM))
	require.Eventually(t, func() bool { return strings.Contains(readLog(t, store), "asked to end, serving on") },
		patience, 10*time.Millisecond)
	require.Equal(t, worker, daemonOf(t, point))
	require.NoError(t, f.Close())
	requireEnd(t, daemon)
	log := readLog(t, store)
	require.NotContains(t, log, "detached")
	require.NotContains(t, log, "making room")
	mount(t, store, point)
	require.Equal(t, "Jello", start(t, f.Name(), 5))
}

// A mount that is asked to end before it is one ends at once.
func TestAskedBeforeTheMount(t *testing.T) {
	dir := t.TempDir()
	program, point := filepath.Join(dir, "snapfs"), filepath.Join(dir, "mnt")
	install(t, program, hangs)
	require.NoError(t, os.Mkdir(point, 0o755))
	var stderr bytes.Buffer
	cmd := exec.Command(program, "mount", "-f", filepath.Join(dir, "store"), point)
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return childOf(cmd.Process.Pid) != 0 }, patience, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, "snapfs: asked to end before the store was mounted\n", stderr.String())
	require.False(t, isMounted(t, point))
}

// Workers that die before they answer anything: after five in a row the supervisor gives up, and the next mount tells of it.
func TestFailedStarts(t *testing.T) {
	deaths := filepath.Join(t.TempDir(), "deaths")
	t.Setenv(diesAtStart, deaths)
	store, point := newMount(t)
	path := filepath.Join(newVM(t, point, "web", "hello"), "root.img")
	for range 2 { // the count begins anew
		require.NoError(t, os.WriteFile(deaths, make([]byte, 4), 0o600))
		require.NoError(t, unix.Kill(daemonOf(t, point), unix.SIGKILL))
		require.Equal(t, "hello", start(t, path, 5))
	}
	require.Equal(t, 8, strings.Count(readLog(t, store), "starting another in "))

	daemon := watchDaemon(point)
	defer daemon.close()
	pid := daemonOf(t, point)
	require.NoError(t, os.WriteFile(deaths, make([]byte, 5), 0o600))
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	requireEnd(t, daemon)
	require.Contains(t, readLog(t, store), "gave up: 5 workers in a row")
	code, _, stderr := snapfs("mount", store, point)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stderr, "cleared away")
	require.Contains(t, done(t, "log", point), `gave-up workers=5 last="exit status 1"`)
	require.FileExists(t, path)
}

// A disk on which others have taken the last byte, what the store holds for itself, too: guests wait until somebody makes room.
func TestNoRoomToStart(t *testing.T) {
	t.Setenv(diesAtStart, "")
	disk := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=384m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, 0)) })
	store, point := filepath.Join(disk, "store"), t.TempDir()
	mount(t, store, point)
	f, err := os.OpenFile(filepath.Join(newVM(t, point, "web", "hello"), "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("J"), 0)
	require.NoError(t, err)
	p, ballast := statusOf(t, point), filepath.Join(store, "ballast")
	require.Eventually(t, func() bool {
		st, err := os.Stat(ballast)
		return err == nil && st.Size() > 0
	}, patience, 10*time.Millisecond)
	fillUp(t, filepath.Join(disk, "others"))
	require.NoError(t, os.Truncate(ballast, 0))
	fillUp(t, filepath.Join(disk, "others too"))

	require.NoError(t, unix.Kill(p.Worker, unix.SIGKILL))
	workers := map[int]bool{0: true, p.Worker: true}
	require.Eventually(t, func() bool {
		workers[childOf(p.Supervisor)] = true
		return len(workers) > 10
	}, patience, time.Millisecond)
	require.NoError(t, os.Remove(filepath.Join(disk, "others")))
	require.Equal(t, "Jello", start(t, f.Name(), 5))
	require.Equal(t, p.Supervisor, statusOf(t, point).Supervisor)
}

// Workers that a full disk makes die of faults, however many: the supervisor does not give up, unless it is asked to end twice.
func TestFaultsOnFullDisk(t *testing.T) {
	disk := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH)) }) // the events stay open
	session, err := layer.NewSession()
	require.NoError(t, err)
	s := &supervisor{spec: mountSpec{store: disk}, log: newDaemonLog(io.Discard), session: session, devices: []int{-1}}
	fault := exec.Command("sh", "-c", "exit 2").Run()
	require.True(t, crashed(fault))
	for range 10 {
		over, err := s.isOver(fault)
		require.NoError(t, err)
		require.False(t, over)
	}
	s.ending = askedTwice
	over, err := s.isOver(fault)
	require.ErrorContains(t, err, "workers in a row")
	require.True(t, over)
}

// fillUp writes a file until its file system has no room left.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	require.ErrorIs(t, err, unix.ENOSPC)
}

// A store that is away when the supervisor gives up has the event when it is back.
func TestGaveUpWhileTheStoreWasAway(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	require.NoError(t, os.Mkdir(store, 0o700))
	s := &supervisor{spec: mountSpec{store: store}, log: newDaemonLog(io.Discard), failed: 5, lastExit: "exit status 1"}
	require.NoError(t, s.openLog())
	defer s.store.Close()
	require.NoError(t, os.Rename(store, store+".away"))
	require.Error(t, s.giveUp())
	require.NoDirExists(t, store)
	text, err := os.ReadFile(filepath.Join(store+".away", "events"))
	require.NoError(t, err)
	require.Contains(t, string(text), `gave-up workers=5 last="exit status 1"`)
}

// A store that is away, with its disk, for a moment in which its worker dies: guests wait for it, and nobody makes another.
func TestStoreAwayForAWhile(t *testing.T) {
	store, point := newMount(t)
	path := filepath.Join(newVM(t, point, "web", "hello"), "root.img")
	pid := daemonOf(t, point)
	require.NoError(t, os.Rename(store, store+".away"))
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	require.Eventually(t, func() bool { return strings.Contains(readLog(t, store+".away"), "starting another in 1s") },
		patience, time.Millisecond)
	require.NoDirExists(t, store)
	require.NoError(t, os.Rename(store+".away", store))
	require.Equal(t, "hello", start(t, path, 5))
	require.Contains(t, done(t, "log", point), "is gone")
}

// A daemon in the foreground whose stderr nobody reads: workers follow each other, and it ends when it is asked to.
func TestNobodyReadsTheLog(t *testing.T) {
	dir := t.TempDir()
	program, store, point := filepath.Join(dir, "snapfs"), filepath.Join(dir, "store"), filepath.Join(dir, "mnt")
	install(t, program, asItIs)
	require.NoError(t, os.Mkdir(point, 0o755))
	var ends [2]int
	require.NoError(t, unix.Pipe2(ends[:], unix.O_CLOEXEC))
	closeReader := sync.OnceFunc(func() { unix.Close(ends[0]) })
	defer closeReader()
	full := os.NewFile(uintptr(ends[1]), "pipe")
	defer full.Close()
	cmd := exec.Command(program, "mount", "-f", store, point)
	cmd.Stderr = full
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return isMounted(t, point) }, patience, time.Millisecond)
	path := filepath.Join(newVM(t, point, "web", "hello"), "root.img")
	require.NoError(t, unix.SetNonblock(ends[1], true))
	for err := error(nil); err == nil; {
		_, err = unix.Write(ends[1], make([]byte, 1))
	}
	require.NoError(t, unix.SetNonblock(ends[1], false))
	late := time.AfterFunc(patience, func() {
		t.Error("somebody waits for the log")
		closeReader()
	})
	defer late.Stop()
	for range 2 {
		require.NoError(t, unix.Kill(daemonOf(t, point), unix.SIGKILL))
		require.Equal(t, "hello", start(t, path, 5))
	}
	code, _, stderr := snapfs("umount", point) // it may find that this takes long, and say so
	require.Equal(t, exitDone, code, stderr)
	require.NoError(t, cmd.Wait())
}
