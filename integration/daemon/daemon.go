package daemon

// A daemon in the foreground, under the eyes of a test.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is how long a mount may take until it answers.
const patience = 2 * time.Minute

// Daemon serves a mount in the foreground.
type Daemon struct {
	Cmd    *exec.Cmd
	Exited chan struct{} // closed when it has ended; how is in Cmd.ProcessState
	Stderr *bytes.Buffer // to be read only after that
}

// Start serves a store at a mountpoint, and returns once the mount answers. The daemon ends with this process at the
// latest.
func Start(t testing.TB, store, dir string, opts ...string) *Daemon {
	t.Helper()
	d := &Daemon{
		Cmd:    exec.Command(Binary, append([]string{"mount", store, dir, "-f"}, opts...)...),
		Exited: make(chan struct{}), Stderr: new(bytes.Buffer),
	}
	d.Cmd.Stderr = d.Stderr
	d.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.Cmd.Process.Pid))
	var pid int
	_, _ = fmt.Sscan(string(text), &pid)
	return pid
}

// Kill ends the supervisor and its worker as a crash of the whole machine's software would.
func (d *Daemon) Kill() {
	worker, err := unix.PidfdOpen(d.Worker(), 0)
	_ = d.Cmd.Process.Kill()
	<-d.Exited
	if err != nil {
		return
	}
	defer unix.Close(worker)
	_ = unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	for {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(worker), Events: unix.POLLIN}}, -1); n > 0 {
			return
		}
	}
}

func (d *Daemon) await(t testing.TB, dir string) {
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
