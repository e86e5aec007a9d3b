package quiesce

// Running a program of the host's, with a time limit and an end to what it may print.

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// drainTime is how long output is read on after a program has gone whose children keep its pipes open.
const drainTime = 500 * time.Millisecond

// hangTime is how long a program that was killed is waited for. One that hangs in the kernel goes when that lets it.
const hangTime = 2 * time.Second

// process is a program to run, in a process group of its own: what it starts is killed with it. Should this process die, the
// program does, too.
type process struct {
	path string
	args []string
	env  []string
	keep int // how many bytes of stdout and of stderr are kept
}

// run returns what the program printed. After the context's end its whole group is killed and the error is the context's.
func (p process) run(ctx context.Context) (stdout, stderr []byte, err error) {
	ended := make(chan struct{})
	var out, errs []byte
	var failed error
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the program dies with the thread that started it
		defer runtime.UnlockOSThread()
		out, errs, failed = p.runHere(ctx)
	}()
	hangs := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(hangTime, func() { close(hangs) }) })()
	select {
	case <-ended:
		return out, errs, failed
	case <-hangs:
		return nil, nil, ctx.Err()
	}
}

func (p process) runHere(ctx context.Context) (stdout, stderr []byte, err error) {
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	out, errs := &head{room: p.keep}, &head{room: p.keep}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.Env = p.env
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = drainTime
	err = cmd.Run()
	switch {
	case ctx.Err() != nil && err != nil:
		err = ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay): // it went well and left somebody behind who holds its pipes
		err = nil
	}
	return out.kept, errs.kept, err
}

// head keeps the first bytes written to it and drops the rest.
type head struct {
	kept []byte
	room int
}

func (h *head) Write(p []byte) (int, error) {
	part := p[:min(len(p), h.room)]
	h.room -= len(part)
	h.kept = append(h.kept, part...)
	return len(p), nil
}
