package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen; it is not a measure of speed, and a busy machine may not get to it
// for long.
const patience = 3 * time.Minute

// newMount mounts a new store in the background for as long as the test runs.
func newMount(t *testing.T, flags ...string) (store, point string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	store, point = filepath.Join(dir, "store"), filepath.Join(dir, "mnt")
	require.NoError(t, os.Mkdir(point, 0o755))
	mount(t, store, point, flags...)
	return store, point
}

// mount mounts in the background, to be unmounted when the test ends.
func mount(t *testing.T, store, point string, flags ...string) {
	t.Helper()
	done(t, append([]string{"mount", store, point}, flags...)...)
	unmountAtEnd(t, point)
}

// unmountAtEnd unmounts when the test ends, unless the test did.
func unmountAtEnd(t *testing.T, point string) {
	daemon := watchDaemon(point)
	t.Cleanup(func() {
		defer daemon.close()
		if m, err := mountAt(point); err != nil || m == nil {
			return
		}
		if code, _, stderr := snapfs("umount", point); code != exitDone {
			_ = unix.Unmount(point, unix.MNT_DETACH)
			_ = unix.PidfdSendSignal(daemon.pidfd, unix.SIGKILL, nil, 0) // the worker ends by itself then
			t.Error(stderr)
		}
	})
}

// newVM makes a VM with a disk of 1 MiB that starts with a text.
func newVM(t *testing.T, point, name, text string) (dir string) {
	t.Helper()
	dir = filepath.Join(point, name)
	require.NoError(t, os.Mkdir(dir, 0o755))
	disk := make([]byte, 1<<20)
	copy(disk, text)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "root.img"), disk, 0o600))
	return dir
}

// start reads the first bytes of a file.
func start(t *testing.T, path string, n int) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	p := make([]byte, n)
	_, err = io.ReadFull(f, p)
	require.NoError(t, err)
	return string(p)
}

// processes are the pids of those behind a mount.
type processes struct {
	Worker     int `json:"worker_pid"`
	Supervisor int `json:"supervisor_pid"`
}

func statusOf(t *testing.T, point string) (p processes) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(done(t, "status", "--json", point)), &p))
	require.NotZero(t, p.Worker)
	require.NotZero(t, p.Supervisor)
	return p
}

// daemonOf is the pid of the worker behind a mount.
func daemonOf(t *testing.T, point string) int {
	t.Helper()
	return statusOf(t, point).Worker
}

// requireEnd waits for the end of a daemon.
func requireEnd(t *testing.T, daemon daemonWatch) {
	t.Helper()
	ended, err := daemon.wait(context.Background(), patience)
	require.NoError(t, err)
	require.True(t, ended)
}

func isMounted(t *testing.T, point string) bool {
	t.Helper()
	m, err := mountAt(point)
	require.NoError(t, err)
	return m != nil
}

func readLog(t *testing.T, store string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(store, "log"))
	require.NoError(t, err)
	return string(text)
}

func TestMountAndUmount(t *testing.T) {
	store, point := newMount(t)
	pid := daemonOf(t, point)
	require.NotEqual(t, os.Getpid(), pid)
	newVM(t, point, "web", "hello")
	require.NoFileExists(t, filepath.Join(point, ".snapshots", "create"))
	done(t, "umount", point)
	require.False(t, isMounted(t, point))
	require.Contains(t, readLog(t, store), "serving "+store)
	require.Contains(t, readLog(t, store), "closed "+store)

	mount(t, store, point, "--snapdir=visible", "--reserve=192MiB", "--map-memory=16MiB")
	require.NotEqual(t, pid, daemonOf(t, point), "umount returns once the daemon is gone")
	require.Equal(t, "hello", start(t, filepath.Join(point, "web", "root.img"), 5))
	entries, err := os.ReadDir(point)
	require.NoError(t, err)
	require.Equal(t, ".snapshots", entries[0].Name())
	require.Contains(t, done(t, "status", "--json", point), `"reserve":201326592`)
	require.Contains(t, done(t, "log", filepath.Join(point, "web")), "vm-created vm=web", "an earlier daemon's event")
}

func TestForeground(t *testing.T) {
	dir := t.TempDir()
	store, point := filepath.Join(dir, "store"), filepath.Join(dir, "mnt")
	require.NoError(t, os.Mkdir(point, 0o755))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var stderr bytes.Buffer
	exit := make(chan int)
	go func() { exit <- run(ctx, []string{"mount", "-f", store, point}, nil, io.Discard, &stderr) }()
	require.Eventually(t, func() bool {
		_, err := os.Lstat(filepath.Join(point, ".snapshots", "status"))
		return err == nil
	}, patience, 10*time.Millisecond)
	cancel()
	require.Equal(t, exitDone, <-exit)
	require.Contains(t, stderr.String(), "serving "+store)
	require.False(t, isMounted(t, point))
	require.NoFileExists(t, filepath.Join(store, "log"))
}

// The first signal waits for those who use the mount, the second for nobody but open files.
func TestSignals(t *testing.T) {
	store, point := newMount(t)
	f, err := os.OpenFile(filepath.Join(newVM(t, point, "web", "hello"), "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	daemon := watchDaemon(point)
	defer daemon.close()
	pid := daemonOf(t, point)

	require.NoError(t, unix.Kill(pid, unix.SIGTERM))
	require.Eventually(t, func() bool { return strings.Contains(readLog(t, store), f.Name()) }, patience, 10*time.Millisecond,
		"the log names what is open")
	_, err = f.WriteAt([]byte("J"), 0)
	require.NoError(t, err, "it serves on")

	require.NoError(t, unix.Kill(pid, unix.SIGTERM))
	require.Eventually(t, func() bool { return !isMounted(t, point) }, patience, 10*time.Millisecond)
	_, err = f.WriteAt([]byte("C"), 0)
	require.NoError(t, err, "open files are served to their end")
	require.NoError(t, f.Close())
	requireEnd(t, daemon)

	mount(t, store, point)
	require.Equal(t, "Cello", start(t, f.Name(), 5))
}

func TestEndsWhenTheLastUserIsGone(t *testing.T) {
	store, point := newMount(t)
	f, err := os.Open(newVM(t, point, "web", ""))
	require.NoError(t, err)
	daemon := watchDaemon(point)
	defer daemon.close()
	require.NoError(t, unix.Kill(daemonOf(t, point), unix.SIGTERM))
	require.Eventually(t, func() bool { return strings.Contains(readLog(t, store), "is busy") }, patience, 10*time.Millisecond)
	require.NoError(t, f.Close())
	requireEnd(t, daemon)
	require.False(t, isMounted(t, point))
}

func TestUmountNamesWhoIsInTheWay(t *testing.T) {
	_, point := newMount(t)
	f, err := os.Open(filepath.Join(newVM(t, point, "web", ""), "root.img"))
	require.NoError(t, err)
	defer f.Close()
	line := refused(t, "umount", point)
	require.Contains(t, line, "busy")
	require.Contains(t, line, f.Name())
	require.Contains(t, line, "pid")
	require.True(t, isMounted(t, point))
}

func TestMountRefusals(t *testing.T) {
	store, point := newMount(t)
	dir := t.TempDir()
	for _, name := range []string{"full/entry", "empty", "strange/entry"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	fresh := filepath.Join(dir, "fresh")
	for _, c := range []struct{ store, point, says string }{
		{fresh, filepath.Join(dir, "missing"), "does not exist"},
		{fresh, filepath.Join(dir, "file"), "not a directory"},
		{fresh, filepath.Join(dir, "full"), "not empty"},
		{fresh, point, "already mounted"},
		{dir, filepath.Join(dir, "empty"), "one in the other"},
		{filepath.Join(dir, "empty", "store"), filepath.Join(dir, "empty"), "one in the other"},
		{store, filepath.Join(dir, "empty"), "in use"},
		{filepath.Join(dir, "strange"), filepath.Join(dir, "empty"), "FORMAT"},
	} {
		for _, flags := range [][]string{nil, {"-f"}} {
			line := refused(t, append([]string{"mount", c.store, c.point}, flags...)...)
			require.Contains(t, line, c.says)
		}
	}
	vm := newVM(t, point, "web", "")
	for _, inside := range []string{filepath.Join(point, "db"), filepath.Join(vm, "store"), filepath.Join(point, "db", "store")} {
		require.Contains(t, refused(t, "mount", inside, filepath.Join(dir, "empty")), "lies in the mount of store "+store+" at "+point)
	}
	require.NoError(t, os.Mkdir(filepath.Join(point, "db"), 0o755), "no VM was made")
	require.Contains(t, refused(t, "mount", fresh, filepath.Join(point, "db")), "lies in the mount")
	require.NoDirExists(t, fresh, "a refusal comes before the store is made")
}

func TestDeadDaemon(t *testing.T) {
	store, point := newMount(t)
	vm := newVM(t, point, "web", "hello")
	done(t, "create", vm, "base")
	held, err := os.Open(filepath.Join(vm, "root.img")) // as a guest has it
	require.NoError(t, err)
	defer held.Close()
	daemon := watchDaemon(point)
	defer daemon.close()
	worker, err := unix.PidfdOpen(daemonOf(t, point), 0)
	require.NoError(t, err)
	// The supervisor would start another worker, and a worker alone would unmount.
	require.NoError(t, unix.PidfdSendSignal(daemon.pidfd, unix.SIGSTOP, nil, 0))
	pid := statusOf(t, point).Supervisor
	require.Eventually(t, func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return err == nil && strings.Contains(string(status), "(stopped)")
	}, patience, time.Millisecond)
	require.NoError(t, unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0))
	requireEnd(t, daemonWatch{worker})
	unix.Close(worker)
	require.NoError(t, unix.PidfdSendSignal(daemon.pidfd, unix.SIGKILL, nil, 0))
	requireEnd(t, daemon)

	require.Contains(t, refused(t, "list", vm), "snapfs umount")
	_, err = held.Stat()
	require.ErrorIs(t, err, unix.ENOTCONN)
	code, _, stderr := snapfs("mount", store, point)
	require.Equal(t, exitDone, code, stderr)
	require.Equal(t, fmt.Sprintf("snapfs: mountpoint %s: cleared away a mount of %s whose daemon is gone\n", point, store), stderr)
	require.Contains(t, done(t, "list", vm), "base")
	table, err := mountTable()
	require.NoError(t, err)
	require.Len(t, slices.DeleteFunc(table, func(m mountEntry) bool { return m.point != point }), 1)
}

// A mount that the kernel refuses fails at once, and says why.
func TestMountWithoutDevice(t *testing.T) {
	require.NoError(t, unix.Mount("/dev/null", "/dev/fuse", "", unix.MS_BIND, "")) // in this process's namespace
	defer func() { require.NoError(t, unix.Unmount("/dev/fuse", 0)) }()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "mnt"), 0o755))
	line := refused(t, "mount", filepath.Join(dir, "store"), filepath.Join(dir, "mnt"))
	require.Contains(t, line, "snapfs: mount on "+filepath.Join(dir, "mnt")+": invalid argument")
	require.False(t, isMounted(t, filepath.Join(dir, "mnt")))
	require.NoDirExists(t, filepath.Join(dir, "store"))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	refused(t, "mount", filepath.Join(dir, "empty"), filepath.Join(dir, "mnt"))
	left, err := os.ReadDir(filepath.Join(dir, "empty"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A dead mount of another file system is left where it is.
func TestDeadForeignMount(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Mount("other", dir, "fuse.other", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	unix.Close(fd)
	require.Contains(t, refused(t, "mount", filepath.Join(t.TempDir(), "store"), dir), "none of snapfs")
	m, err := mountAtPoint(dir)
	require.NoError(t, err)
	require.Equal(t, "fuse.other", m.fsType)
}

// A worker that dies is followed by another: what was open stays so, and what was written and not flushed is there.
func TestDeadWorker(t *testing.T) {
	store, point := newMount(t)
	f, err := os.OpenFile(filepath.Join(newVM(t, point, "web", "hello"), "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	for i := range 3 {
		_, err = f.WriteAt([]byte{'0' + byte(i)}, 5)
		require.NoError(t, err)
		pid := daemonOf(t, point)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		require.Equal(t, fmt.Sprint("hello", i), start(t, f.Name(), 6))
		require.NotEqual(t, pid, daemonOf(t, point))
	}
	status := done(t, "status", point)
	require.Regexp(t, `restarts +3`, status)
	require.Contains(t, status, "signal: killed")
	require.Contains(t, readLog(t, store), "the worker ended: signal: killed; starting another")
}

// A supervisor that dies takes nothing along: its worker serves on.
func TestDeadSupervisor(t *testing.T) {
	store, point := newMount(t)
	f, err := os.OpenFile(filepath.Join(newVM(t, point, "web", "hello"), "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	daemon := watchDaemon(point)
	defer daemon.close()
	worker, err := unix.PidfdOpen(daemonOf(t, point), 0)
	require.NoError(t, err)
	require.NoError(t, unix.PidfdSendSignal(daemon.pidfd, unix.SIGKILL, nil, 0))
	requireEnd(t, daemon)
	_, err = f.WriteAt([]byte("J"), 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(readLog(t, store), "unsupervised") }, patience, 10*time.Millisecond)
	require.NoError(t, f.Close())
	require.Contains(t, refused(t, "upgrade", point), "its supervisor is gone")
	require.Contains(t, done(t, "log", point), "unsupervised")
	done(t, "umount", point)
	requireEnd(t, daemonWatch{worker})
	unix.Close(worker)
	mount(t, store, point)
	require.Equal(t, "Jello", start(t, f.Name(), 5))
}

// What the caller has open is not the daemon's to keep.
func TestMountKeepsNothingOpen(t *testing.T) {
	store, point := newMount(t)
	f, err := os.Open(filepath.Join(newVM(t, point, "web", ""), "root.img"))
	require.NoError(t, err)
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFD, 0) // as a shell's
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.Mkdir(other, 0o755))
	mount(t, store+"2", other)
	require.NoError(t, f.Close())
	done(t, "umount", point)
}

// A copy of the mount in another mount namespace, a container's for example, keeps the store open.
func TestUmountWithTheMountElsewhere(t *testing.T) {
	_, point := newMount(t)
	container := exec.Command("sleep", "1000")
	container.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	require.NoError(t, container.Start())
	var stderr screen
	exit := make(chan int)
	go func() { exit <- run(context.Background(), []string{"umount", point}, nil, io.Discard, &stderr) }()
	said := fmt.Sprintf("%s (sleep, pid %d)", point, container.Process.Pid)
	named := assert.Eventually(t, func() bool { return stderr.shows(said) }, patience, 10*time.Millisecond)
	require.NoError(t, container.Process.Kill())
	_ = container.Wait()
	require.True(t, named)
	require.Equal(t, exitDone, <-exit)
}
