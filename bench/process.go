package main

// Other programs: run, started, waited for, and what they cost.

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is how long to wait for what takes seconds at most.
const patience = 2 * time.Minute

// start runs a program that ends with this one, in a session of its own: see daemon.StartCommand.
func start(s *scope, cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	require.NoError(s, cmd.Start())
}

// await waits until something is so.
func await(s *scope, what string, is func() bool) {
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		require.True(s, time.Now().Before(deadline), "waited too long for %s", what)
	}
}

// awaitFUSE waits until something is mounted on a path.
func awaitFUSE(s *scope, path string) {
	await(s, "a mount on "+path, func() bool {
		var st unix.Statfs_t
		return unix.Statfs(path, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
	})
}

// run executes a program to its end and returns its output.
func run(s *scope, name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(s, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

// cpuTime is how long a process has been running on a CPU.
func cpuTime(s *scope, pid int) time.Duration {
	var ts unix.Timespec
	const scheduler = 2 // CPUCLOCK_SCHED: see clock_getcpuclockid(3)
	require.NoError(s, unix.ClockGettime(int32(^pid<<3|scheduler), &ts))
	return time.Duration(ts.Nano())
}

// counter reads a number out of a process's file in /proc, as in "rchar: 12" or "RssAnon:	 12 kB".
func counter(s *scope, pid int, file, key string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	require.NoError(s, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			require.NoError(s, err)
			return n
		}
	}
	require.FailNow(s, "no such counter", "%s in %s", key, file)
	return 0
}

// anonymous is how many bytes of anonymous memory processes use.
func anonymous(s *scope, pids ...int) (sum int64) {
	for _, pid := range pids {
		sum += counter(s, pid, "status", "RssAnon") << 10
	}
	return sum
}
