package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// install puts a program in the place of another, as a package manager does.
func install(t *testing.T, program []byte, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", program, 0o755))
	require.NoError(t, os.Rename(path+".new", path))
}

// startFio has fio write, verify and flush for some seconds, and then say how that went.
func startFio(disk string) <-chan error {
	said := make(chan error, 1)
	go func() {
		out, err := exec.Command("fio", "--name=verify", "--filename="+disk, "--size=64M", "--rw=randrw", "--bs=4k", "--iodepth=8",
			"--ioengine=libaio", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64",
			"--verify_state_save=0", "--fsync=64", "--time_based", "--runtime=6").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("fio: %w: %s", err, out)
		}
		said <- err
	}()
	return said
}

// TestUpgrade has other programs take a mount over, the right one and wrong ones,
// while fio writes, verifies and flushes.
func TestUpgrade(t *testing.T) {
	binary := readFile(t, daemon.Binary)
	program := filepath.Join(t.TempDir(), "snapfs")
	install(t, binary, program)
	m := newMount(t)
	m.stop()
	m.Daemon = daemon.StartProgram(t, program, m.store, m.dir)
	m.vm("web")
	disk := m.disk("web", "disk.img", 0)
	said := startFio(disk)
	supervisor, worker := m.Cmd.Process.Pid, m.Worker()
	for range 3 {
		install(t, binary, program) // another file, if the same program
		require.Contains(t, mustSnapfs(t, "upgrade", m.dir), "is served by version")
		require.NotEqual(t, worker, m.Worker())
		worker = m.Worker()
	}
	for i, wrong := range []string{"#!/bin/sh\nexit 3\n", "#!/bin/sh\necho something else\n", "no program"} {
		install(t, []byte(wrong), program)
		r := snapfs(t, "upgrade", m.dir)
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "serves on: upgrade failed")
		require.Equal(t, worker, m.Worker(), "nobody had to wait")
		require.Contains(t, mustSnapfs(t, "status", m.dir), fmt.Sprintf("%d (last ", i+1))
	}
	install(t, binary, program)
	mustSnapfs(t, "upgrade", m.dir)
	require.NoError(t, <-said)
	require.Equal(t, supervisor, m.Cmd.Process.Pid)
	var status struct {
		Supervisor int `json:"supervisor_pid"`
		Restarts   int `json:"restarts"`
	}
	require.NoError(t, json.Unmarshal(readFile(t, snapshotPath(m.dir, "status")), &status))
	require.Equal(t, supervisor, status.Supervisor)
	require.Equal(t, 4, status.Restarts)
	require.Less(t, memoryOf(t, supervisor), 20<<20)
}

// TestUpgradeGuarded has a program take over that goes through being tried, and then ends: the one of before serves on,
// under another supervisor, and fio notices nothing.
func TestUpgradeGuarded(t *testing.T) {
	binary := readFile(t, daemon.Binary)
	base := t.TempDir()
	program := filepath.Join(base, "snapfs")
	m := &mount{t: t, store: filepath.Join(base, "store"), dir: filepath.Join(base, "mnt")}
	require.NoError(t, os.Mkdir(m.dir, 0o755))
	install(t, binary, program)
	run(t, program, "mount", m.store, m.dir)
	t.Cleanup(func() { _ = unix.Unmount(m.dir, unix.MNT_DETACH) })
	m.vm("web")
	said := startFio(m.disk("web", "disk.img", 0))
	for range 3 {
		install(t, fmt.Appendf(nil, "#!/bin/sh\ncase \"$*\" in *--try*|--version) exec %s \"$@\";; esac\nexit 3\n", daemon.Binary), program)
		failSnapfs(t, "serves on: upgrade failed: the new version ended, or did nothing, before it had a worker", "upgrade", m.dir)
		install(t, binary, program)
		mustSnapfs(t, "upgrade", m.dir)
	}
	require.NoError(t, <-said)
	mustSnapfs(t, "umount", m.dir)
	m.check()
}

// memoryOf is what a process has in memory, in bytes, beside what it shares with others.
func memoryOf(t *testing.T, pid int) int {
	t.Helper()
	var total, shared int
	for line := range strings.Lines(string(readFile(t, fmt.Sprintf("/proc/%d/status", pid)))) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &total)
		_, _ = fmt.Sscanf(line, "RssShmem: %d kB", &shared)
	}
	require.Positive(t, total)
	t.Logf("the supervisor has %d KiB, and %d KiB of the session", total-shared, shared)
	return (total - shared) << 10
}
