package main

// A worker: the process that serves a mount, under a supervisor that starts the next one should it die.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// supervised is the worker's side of it.
type supervised struct {
	session  *layer.Session
	pid      int
	alone    atomic.Bool // the supervisor is gone
	stored   bool        // a service manager keeps the mount's descriptors
	ending   ending      // how far that was when it was started
	restarts int
	lastExit string
	refusal  atomic.Pointer[fs.Refusal] // of an upgrade; nil: there was none
}

// goesOn says whether this process is a worker, or a supervisor that goes on with a mount in the place of another.
func goesOn() bool { return os.Getenv(workerEnv) != "" || os.Getenv(keptEnv) != "" }

// goOn is what such a process does.
func (a *app) goOn(ctx context.Context, spec mountSpec) error {
	if os.Getenv(workerEnv) == "" {
		log := newDaemonLog(nil)
		if spec.foreground {
			log = newDaemonLog(a.stderr)
		}
		guard := os.Getenv(guardEnv)
		os.Unsetenv(guardEnv)
		k, err := takeKept()
		if err != nil {
			return err
		}
		if guard != "" {
			return a.keepGuard(ctx, spec, k, guard)
		}
		return a.supervise(ctx, spec, log, func() {}, k)
	}
	w, err := asWorker()
	if err != nil {
		return err
	}
	return a.work(ctx, spec, w)
}

// asWorker takes what the supervisor gave along.
func asWorker() (*supervised, error) {
	text := os.Getenv(workerEnv)
	os.Unsetenv(workerEnv)
	stored := os.Getenv(notifyEnv) != ""
	os.Unsetenv(notifyEnv) // scripts and other children have nothing to tell there
	unix.CloseOnExec(workerSocket)
	unix.CloseOnExec(workerSession)
	w := &supervised{pid: os.Getppid(), stored: stored}
	if _, err := fmt.Sscanf(text, "%d:%d:", &w.restarts, &w.ending); err != nil {
		return nil, fmt.Errorf("%s=%s: %w", workerEnv, text, err)
	}
	w.lastExit = strings.SplitN(text, ":", 3)[2]
	var err error
	w.session, err = layer.AdoptSession(workerSession)
	return w, err
}

// work serves, and tells the supervisor why not.
func (a *app) work(ctx context.Context, spec mountSpec, w *supervised) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signal.Ignore(unix.SIGHUP) // the supervisor's business, and what the kernel sends when that is gone
	log := newDaemonLog(nil)
	if spec.foreground {
		log = newDaemonLog(a.stderr)
	}
	w.stored = w.stored && spec.foreground
	err := a.serve(ctx, cancel, spec, log, w)
	if err != nil && !w.alone.Load() {
		if layer.Errno(err) == unix.ENOSPC {
			w.say(saidFull)
		}
		w.say(oneLine(err.Error()))
		return errSaid
	}
	return err
}

// errSaid is an error that the supervisor tells.
var errSaid = errors.New("told to the supervisor")

// close closes the store of a mount that is over. If that fails, another worker would not fare better: what a disk could not
// take is lost.
func (w *supervised) close(store *layer.Store) error {
	err := store.Close()
	if err != nil {
		w.say(saidOver)
	}
	return err
}

func (w *supervised) say(what string) {
	_ = unix.Sendto(workerSocket, []byte(what), unix.MSG_NOSIGNAL, nil)
}

// devices asks for the descriptors of the mount.
func (w *supervised) devices() ([]int, error) {
	w.say(saidOpened)
	data, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4*64))
	for {
		_, n, _, _, err := unix.Recvmsg(workerSocket, data, control, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("receive the mount's descriptors: %w", err)
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			return nil, errors.New("the supervisor ended before the store was mounted")
		}
		return unix.ParseUnixRights(&messages[0])
	}
}

// watch hears what the supervisor has to tell: an upgrade was refused; drain, so that another worker can go on. It calls gone
// when the supervisor ends: nobody would start the next worker.
func (w *supervised) watch(refused func(refusalNote), drain, gone func()) {
	for p := make([]byte, 64<<10); ; {
		n, err := unix.Read(workerSocket, p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n > 0 {
			var r refusalNote
			if string(p[:n]) == toldDrain {
				go drain()
			} else if json.Unmarshal(p[:n], &r) == nil {
				w.refusal.Store(&r.Refusal)
				refused(r)
			}
			continue
		}
		w.alone.Store(true)
		gone()
		return
	}
}

// supervision is what status shows.
func (w *supervised) supervision() fs.Supervision {
	s := fs.Supervision{PID: w.pid, Restarts: w.restarts, LastExit: w.lastExit, Refusal: w.refusal.Load()}
	if w.alone.Load() {
		s.PID = 0
	}
	return s
}
