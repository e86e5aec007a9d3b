package main

// Into the background: a second process serves, and tells the first through a pipe that the mount answers.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeEnv names the descriptor of the pipe to the process that waits. One byte means that the mount answers, more are
// the text of an error, and nothing at all that the daemon died.
const pipeEnv = "SNAPFS_READY_FD"

// readyByte says that the mount answers.
const readyByte = 0

// parentPipe is the pipe to the process that started this one as a daemon, nil if none did.
func parentPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(pipeEnv))
	if err != nil {
		return nil
	}
	os.Unsetenv(pipeEnv)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

// startDaemon starts a process that serves in the background, and waits until it does or has failed.
func (a *app) startDaemon(ctx context.Context, spec mountSpec) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fromChild, toParent, err := os.Pipe()
	if err != nil {
		return err
	}
	defer fromChild.Close()
	daemon := exec.Command(self, spec.args()...)
	daemon.Dir = "/"
	daemon.ExtraFiles = []*os.File{toParent}
	daemon.Env = append(os.Environ(), pipeEnv+"=3")
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = daemon.Start()
	toParent.Close()
	if err != nil {
		return err
	}
	defer a.working("opening the store")()
	said, err := readOrGiveUp(ctx, fromChild)
	switch {
	case err != nil:
		_ = daemon.Process.Signal(unix.SIGTERM)
		return err
	case bytes.Equal(said, []byte{readyByte}):
		go func() { _ = daemon.Wait() }() // for as long as this process is there, it is its parent
		return nil
	case len(said) > 0:
		return errors.New(string(said))
	}
	return fmt.Errorf("the daemon died before the mount answered (%v); see %s/log, or mount with -f", daemon.Wait(), spec.store)
}

// readOrGiveUp reads to the end, or until the context is done.
func readOrGiveUp(ctx context.Context, r *os.File) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	said, err := io.ReadAll(r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return said, err
}

// superviseFor supervises in the background, on behalf of the process at the other end of the pipe.
func (a *app) superviseFor(parent *os.File, spec mountSpec) error {
	defer parent.Close()
	ready := false
	err := a.supervise(context.Background(), spec, newDaemonLog(nil), func() {
		ready = true
		_, _ = parent.Write([]byte{readyByte})
		parent.Close()
	}, nil)
	if err != nil && !ready {
		_, _ = parent.WriteString(err.Error())
	}
	return err
}

// daemonLog is where the daemon's lines go: stderr, or a file that can only be opened once the store is known to be
// one; what is said before is kept until then.
type daemonLog struct {
	waiting atomic.Int32 // lines
	stuck   atomic.Bool  // what was waited for in vain is not written yet

	mu  sync.Mutex // guards out, and is held while that is written to
	out io.Writer
}

// newDaemonLog logs to out, or if that is nil keeps everything until a file is opened.
func newDaemonLog(out io.Writer) *daemonLog {
	if out == nil {
		out = new(bytes.Buffer)
	}
	return &daemonLog{out: out}
}

// open makes a file the log. A crash of the process leaves its last words there too.
func (l *daemonLog) open(path string) error {
	file, err := openRotating(path, logSize, func(f *os.File) {
		_ = debug.SetCrashOutput(f, debug.CrashOptions{})
	})
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	l.writeTo(file)
	return nil
}

// writeTo has lines written to a file, those that were kept first.
func (l *daemonLog) writeTo(file io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if early, ok := l.out.(*bytes.Buffer); ok {
		_, _ = file.Write(early.Bytes())
	}
	l.out = file
}

// Write adds finished lines.
func (l *daemonLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// logTime is how long a line of the daemon's own is waited for, and maxLogged how many may wait to be written.
const (
	logTime   = time.Second
	maxLogged = 1000
)

// printf adds a line of the daemon's own, with the time. Nobody waits long for a log that does not take it, such as a pipe
// that is full: those who have the mount open would wait, too.
func (l *daemonLog) printf(format string, args ...any) {
	line := fmt.Sprintf("%s %s\n", time.Now().UTC().Format(time.RFC3339), oneLine(fmt.Sprintf(format, args...)))
	if l.waiting.Add(1) > maxLogged {
		l.waiting.Add(-1)
		return
	}
	written := make(chan struct{})
	go func() {
		_, _ = l.Write([]byte(line))
		if l.waiting.Add(-1) == 0 {
			l.stuck.Store(false)
		}
		close(written)
	}()
	if l.stuck.Load() {
		return
	}
	select {
	case <-written:
	case <-time.After(logTime):
		l.stuck.Store(true)
	}
}
