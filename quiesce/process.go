package quiesce

// Running a program of the host's, with a time limit and an end to what it may print.

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// drainTime is how long output is read on after a program has gone whose children keep its pipes open.
const drainTime = 500 * time.Millisecond

// process is a program to run, in a process group of its own: what it starts is killed with it.
type process struct {
	path string
	args []string
	env  []string
	keep int // how many bytes of stdout and of stderr are kept
}

// run returns what the program printed. After the context's end its whole group is killed and the error is the context's.
func (p process) run(ctx context.Context) (stdout, stderr []byte, err error) {
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	out, errs := &head{room: p.keep}, &head{room: p.keep}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.Env = p.env
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
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
