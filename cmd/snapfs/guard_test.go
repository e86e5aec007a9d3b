package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Versions that went through being tried, and then end, or do nothing, before they have a worker: the one of before is the
// mount's supervisor again, in another process.
func TestGuard(t *testing.T) {
	for _, version := range []programVersion{diesAtOnce, hangsAtOnce} {
		t.Run(string(version), func(t *testing.T) {
			t.Setenv(guardsFor, "5s")
			program, _, point := newInstalled(t)
			f, err := os.OpenFile(filepath.Join(point, "web", "root.img"), os.O_RDWR, 0)
			require.NoError(t, err)
			defer f.Close()
			before := statusOf(t, point)
			for i := range 2 {
				_, err = f.WriteAt([]byte{'0' + byte(i)}, 0)
				require.NoError(t, err)
				install(t, program, version)
				supervisor := watchDaemon(point)
				require.Contains(t, refused(t, "upgrade", point), "serves on: upgrade failed: the new version ended, or did nothing, before it had a worker")
				require.Equal(t, string('0'+byte(i)), start(t, f.Name(), 1), "not flushed, and there")
				now := statusOf(t, point)
				require.NotEqual(t, before.Supervisor, now.Supervisor)
				requireEnd(t, supervisor)
				supervisor.close()
				before = now
			}
			require.NoError(t, unix.Kill(before.Worker, unix.SIGKILL))
			require.Equal(t, "1", start(t, f.Name(), 1), "it supervises")
			install(t, program, asItIs)
			require.Contains(t, done(t, "upgrade", point), "is served by version")
			require.Equal(t, before.Supervisor, statusOf(t, point).Supervisor)
		})
	}
}

// guards counts those of a mount.
func guards(t *testing.T, point string) (n int) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, proc := range processes {
		args, _ := os.ReadFile(proc + "/cmdline")
		if strings.HasSuffix(string(args), "\x00"+point+"\x00") {
			env, _ := os.ReadFile(proc + "/environ")
			n += strings.Count(string(env), guardEnv+"="+guardItself+"\x00")
		}
	}
	return n
}

// A guard ends once the new version answers anything, and if that is not asked anything, after its time.
func TestGuardEnds(t *testing.T) {
	t.Setenv(guardsFor, "5s")
	_, _, point := newInstalled(t)
	p := statusOf(t, point)
	done(t, "upgrade", point)
	require.Eventually(t, func() bool { return guards(t, point) == 0 }, patience, 20*time.Millisecond)
	require.NoError(t, unix.Kill(p.Supervisor, unix.SIGHUP)) // and nobody looks at the mount
	require.Eventually(t, func() bool { return guards(t, point) == 1 }, patience, 20*time.Millisecond)
	require.Eventually(t, func() bool { return guards(t, point) == 0 }, patience, 20*time.Millisecond)
	require.Equal(t, p.Supervisor, statusOf(t, point).Supervisor)
}
