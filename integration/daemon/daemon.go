package daemon

// A daemon in the foreground, under the eyes of a test.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is how long a mount may take until it answers.
const patience = 2 * time.Minute

// T is what is wanted of a test, or of who else starts a daemon.
type T interface {
	require.TestingT
	Helper()
	Failed() bool
}

// Daemon serves a mount in the foreground.
type Daemon struct {
	Cmd    *exec.Cmd
	Exited chan struct{} // closed when it has ended; how is in Cmd.ProcessState
	Stderr *bytes.Buffer // to be read only after that
}

// Start serves a store at a mountpoint, and returns once the mount answers. The daemon ends with this process at the
// latest.
func Start(t T, store, dir string, opts ...string) *Daemon {
	t.Helper()
	return StartProgram(t, Binary, store, dir, opts...)
}

// StartProgram is Start with another program than the one under test.
func StartProgram(t T, program, store, dir string, opts ...string) *Daemon {
	t.Helper()
	return StartCommand(t, exec.Command(program, append([]string{"mount", store, dir, "-f"}, opts...)...), dir)
}

// StartCommand is Start with a command that becomes a daemon in the foreground. It has a session of its own, as it would from
// a service manager: the scheduler shares processors between sessions (sched(7), autogroup) or services, not between
// threads, so that within the caller's the daemon's threads would take turns with those that ask it for something.
func StartCommand(t T, cmd *exec.Cmd, dir string) *Daemon {
	t.Helper()
	d := &Daemon{Cmd: cmd, Exited: make(chan struct{}), Stderr: new(bytes.Buffer)}
	d.Cmd.Stderr = d.Stderr
	d.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	require.NoError(t, d.Cmd.Start())
	go func() {
		_ = d.Cmd.Wait()
		close(d.Exited)
	}()
	defer func() {
		if t.Failed() {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			d.Kill()
		}
	}()
	d.await(t, dir)
	return d
}

// Worker is the process that serves at present, 0 between two of them.
func (d *Daemon) Worker() int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.Cmd.Process.Pid)) // of each thread
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return pid
		}
	}
	return 0
}

// Kill ends the supervisor and its worker as a crash of the whole machine's software would.
func (d *Daemon) Kill() {
	pid := d.Cmd.Process.Pid
	for !Stopped(pid) {
		_ = unix.Kill(pid, unix.SIGSTOP) // or it would start another; again, should somebody else have it go on
		time.Sleep(time.Millisecond)
	}
	killInTurn(d.Worker(), pid) // alone, a worker would unmount
	<-d.Exited
}

// Stopped says whether all threads of a process have stopped, or it is gone: those amid a system call go on to its end.
func Stopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it is gone
		}
		state := string(text[bytes.LastIndexByte(text, ')')+2])
		if !strings.Contains("TtZX", state) {
			return false
		}
	}
	return true
}

// killInTurn kills processes one after the other, each once the one before it is gone.
func killInTurn(pids ...int) {
	var fds []int
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			fds = append(fds, fd)
		}
	}
	for _, fd := range fds {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		for gone := 0; gone == 0; {
			gone, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
		unix.Close(fd)
	}
}

func (d *Daemon) await(t T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			_, err := os.ReadFile(filepath.Join(dir, ".snapshots", "status"))
			require.NoError(t, err)
			return
		}
		select {
		case <-d.Exited:
			require.FailNow(t, "the daemon ended", "%v: %s", d.Cmd.ProcessState, d.Stderr)
		default:
		}
		require.True(t, time.Now().Before(deadline), "the mount does not answer")
	}
}
