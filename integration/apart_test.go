package integration

// One VM in a state in which it might hold others up, and another beside it.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestVMsApart puts one VM in each state in which it might hold others up, and has
// another VM read, write and sync meanwhile; how much slower that is than without
// is printed, and how much an overload slows down a file of the host's. What is
// shared, processors and disk, may be felt, but nothing waits for as long as what
// the first VM waits for.
func TestVMsApart(t *testing.T) {
	besideEach(t, newMount(t), []state{
		{"frozen", func(t *testing.T, vm string) func() time.Duration { return frozen(t, vm, 1) }},
		{"queued", func(t *testing.T, vm string) func() time.Duration { return frozen(t, vm, 1000) }},
		{"script", stuckScript},
		{"hung", hungScript},
		{"nowhere", hungAgent},
		{"unread", unreadAnswers},
		{"overload", func(t *testing.T, vm string) func() time.Duration {
			leave := deepQueues(t, filepath.Join(vm, "disk"))
			return func() time.Duration { leave(); return 0 }
		}},
		{"delete", manyDeleted},
		{"export", exported},
		{"memory", memorySaved()},
		{"endless", endlessAnswer},
		{"garbage", endlessLines},
	})
	alone, beside := onHost(t)
	logRatios(t, "without snapfs", beside, alone)
}

// state is one that a VM can be in: enter brings it there, and has it stay until leave.
type state struct {
	name  string
	enter func(t *testing.T, vm string) (leave func() (waited time.Duration))
}

// besideEach puts one VM after the other in a state, and measures another beside it.
func besideEach(t *testing.T, m *mount, states []state) {
	t.Helper()
	steady := m.vm("steady")
	disk := m.disk("steady", "disk", 0)
	writeSynced(t, disk, 4<<20)
	for _, state := range states {
		vm := m.vm(state.name)
		file := m.disk(state.name, "disk", 0)
		writeSynced(t, file, 4<<20)
		guest := open(t, file, os.O_RDWR)
		var alone, beside latencies
		for range 2 {
			alone.probe(t, disk)
			leave := state.enter(t, vm)
			began := len(beside.all)
			beside.probe(t, disk)
			if waited := leave(); waited > 0 {
				require.Less(t, slices.Max(beside.all[began:]), waited, state.name)
			}
		}
		logRatios(t, "beside "+state.name, beside, alone)
		require.NoError(t, guest.Close())
		mustCommand(t, vm, "policy", "{}")
	}
	mustCommand(t, steady, "create", "in-the-end")
}

func logRatios(t *testing.T, what string, beside, alone latencies) {
	t.Logf("%-15s p50 and p99 are that of alone times: read %s, write %s, sync %s", what,
		ratios(beside.reads, alone.reads), ratios(beside.writes, alone.writes), ratios(beside.syncs, alone.syncs))
}

// latencies are how long calls took.
type latencies struct{ reads, writes, syncs, all []time.Duration }

// probe does one thing after the other to a file of 4 MiB.
func (l *latencies) probe(t *testing.T, path string) {
	t.Helper()
	f, p := open(t, path, os.O_RDWR|unix.O_DIRECT), alignedBlock(t)
	timed := func(to *[]time.Duration, op func() error) {
		began := time.Now()
		require.NoError(t, op())
		took := time.Since(began)
		*to, l.all = append(*to, took), append(l.all, took)
	}
	for i := range 200 {
		off := rand.Int64N(1024) * int64(len(p))
		timed(&l.reads, func() error { _, err := f.ReadAt(p, off); return err })
		timed(&l.writes, func() error { _, err := f.WriteAt(p, off); return err })
		if i%4 == 0 {
			timed(&l.syncs, f.Sync)
		}
	}
	require.NoError(t, f.Close())
}

// ratios compare the medians and the 99th percentiles.
func ratios(a, b []time.Duration) string {
	at := func(d []time.Duration, percent int) float64 {
		d = slices.Sorted(slices.Values(d))
		return float64(d[len(d)*percent/100])
	}
	return fmt.Sprintf("%.1f and %.1f", at(a, 50)/at(b, 50), at(a, 99)/at(b, 99))
}

// commands gives a VM so many commands at once. What it returns waits for all, and
// says how long the quickest took.
func commands(vm, control string, n int, line func(i int) string) (await func() time.Duration) {
	took := make([]time.Duration, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			began := time.Now()
			_ = os.WriteFile(snapshotPath(vm, control), []byte(line(i)), 0) // whatever comes of it
			took[i] = time.Since(began)
		})
	}
	return func() time.Duration {
		all.Wait()
		return slices.Min(took)
	}
}

// frozen has snapshots wait for an agent that was told to freeze its guest, and
// says nothing any more.
func frozen(t *testing.T, vm string, n int) (leave func() time.Duration) {
	agent := newMuteAgent(t)
	mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"mode": "agent", "agent": %q}}`, agent.path))
	await := commands(vm, "create", n, func(i int) string { return fmt.Sprint("never", i) })
	require.Eventually(t, agent.told.Load, patience, time.Millisecond)
	return func() time.Duration {
		agent.end()
		return await()
	}
}

// stuckScript has a snapshot wait for a script.
func stuckScript(t *testing.T, vm string) (leave func() time.Duration) {
	dir := t.TempDir()
	script, started, end := filepath.Join(dir, "script"), filepath.Join(dir, "started"), filepath.Join(dir, "end")
	require.NoError(t, unix.Mkfifo(end, 0o600))
	require.NoError(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n>%s\nread x <%s\nexit 1\n", started, end), 0o755))
	mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"pre": [%q]}}`, script))
	await := commands(vm, "create", 1, func(int) string { return "never" })
	require.Eventually(t, func() bool { _, err := os.Stat(started); return err == nil }, patience, time.Millisecond)
	return func() time.Duration {
		require.NoError(t, os.WriteFile(end, []byte("\n"), 0))
		return await()
	}
}

// unreadAnswers has control files open whose answers nobody reads.
func unreadAnswers(t *testing.T, vm string) (leave func() time.Duration) {
	var files []*os.File
	for range 500 {
		f := open(t, snapshotPath(vm, "delete"), os.O_RDWR)
		_, err := f.WriteString("not-there")
		require.ErrorIs(t, err, syscall.ENOENT)
		files = append(files, f)
	}
	return func() time.Duration {
		for _, f := range files {
			require.NoError(t, f.Close())
		}
		return 0
	}
}

// deepQueues has eight processes keep 64 reads and writes each in a disk's queue.
func deepQueues(t *testing.T, disk string) (leave func()) {
	cmd := exec.Command("fio", "--name=load", "--filename="+disk, "--size=4M", "--rw=randrw", "--bs=4k", "--iodepth=64",
		"--numjobs=8", "--thread", "--ioengine=libaio", "--direct=1", "--time_based", "--runtime=3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	var was, is unix.Stat_t
	require.NoError(t, unix.Stat(disk, &was))
	require.Eventually(t, func() bool {
		require.NoError(t, unix.Stat(disk, &is))
		return is.Mtim != was.Mtim
	}, patience, time.Millisecond)
	return func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
}

// onHost is how a file of the host's fares beside the same load, of processors and disk, on another one.
func onHost(t *testing.T) (alone, beside latencies) {
	dir := t.TempDir()
	steady, busy := filepath.Join(dir, "steady"), filepath.Join(dir, "busy")
	for _, path := range []string{steady, busy} {
		writeFile(t, path, nil)
		writeSynced(t, path, 4<<20)
	}
	for range 2 {
		alone.probe(t, steady)
		leave := deepQueues(t, busy)
		beside.probe(t, steady)
		leave()
	}
	return alone, beside
}

// manyDeleted has all of a long row of snapshots deleted at once, and what they
// held given back.
func manyDeleted(t *testing.T, vm string) (leave func() time.Duration) {
	const n = 200
	f, p := open(t, filepath.Join(vm, "disk"), os.O_RDWR|unix.O_DIRECT), alignedBlock(t)
	for i := range n {
		_, err := f.WriteAt(p, int64(i)*4096)
		require.NoError(t, err)
		mustCommand(t, vm, "create", fmt.Sprint("s", i))
	}
	await := commands(vm, "delete", 1, func(int) string { return fmt.Sprintf("s0..s%d", n-1) })
	return func() time.Duration {
		await()
		require.Empty(t, list(t, vm))
		return 0
	}
}

// muteAgent is a guest agent that answers until it is told to freeze the guest, and then says nothing, or flood for ever.
type muteAgent struct {
	path  string
	flood []byte
	told  atomic.Bool
	end   func()
}

func newMuteAgent(t *testing.T) *muteAgent { return newFloodingAgent(t, nil) }

func newFloodingAgent(t *testing.T, flood []byte) *muteAgent {
	dir, err := os.MkdirTemp("", "agent") // a socket's path has to be short
	require.NoError(t, err)
	a := &muteAgent{path: filepath.Join(dir, "agent"), flood: flood}
	l, err := net.Listen("unix", a.path)
	require.NoError(t, err)
	over := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { a.serve(conn) })
			serving.Go(func() {
				<-over
				conn.Close()
			})
		}
	})
	a.end = sync.OnceFunc(func() {
		l.Close()
		close(over)
		serving.Wait()
		os.RemoveAll(dir)
	})
	t.Cleanup(a.end)
	return a
}

func (a *muteAgent) serve(conn net.Conn) {
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c struct {
			Execute   string
			Arguments struct{ ID json.RawMessage }
		}
		if json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "\xff")), &c) != nil {
			continue
		}
		switch c.Execute {
		case "guest-sync-delimited":
			fmt.Fprintf(conn, "\xff{\"return\": %s}\n", c.Arguments.ID)
		case "guest-fsfreeze-status":
			fmt.Fprintln(conn, `{"return": "thawed"}`)
		case "guest-info":
			fmt.Fprintln(conn, `{"return": {"version": "7.2", "supported_commands": [`+
				`{"name": "guest-fsfreeze-freeze", "enabled": true}, {"name": "guest-fsfreeze-thaw", "enabled": true}]}}`)
		case "guest-fsfreeze-freeze":
			a.told.Store(true)
		}
		for a.flood != nil && a.told.Load() {
			if _, err := conn.Write(a.flood); err != nil {
				return
			}
		}
	}
}
