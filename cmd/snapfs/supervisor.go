package main

// The supervisor: mounts, keeps what the kernel and the workers of a mount share, and starts a worker whenever there is
// none. Guests wait for the next worker; they do not notice otherwise.
//
// It holds the descriptors of the FUSE session, also those that only the worker reads: when the last holder of one dies,
// the kernel ends the requests that were read through it with an error.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// failedStarts is after how many workers in a row that answered nothing the supervisor gives up.
const failedStarts = 5

// supervisor is one mount's.
type supervisor struct {
	spec     mountSpec
	log      *daemonLog
	ready    func()
	session  *layer.Session
	devices  []int // once mounted
	restarts int
	lastExit string
}

// supervise runs a mount until it is unmounted, and calls ready once it answers. A cancelled context asks it to end, as a
// signal does.
func (a *app) supervise(ctx context.Context, spec mountSpec, log *daemonLog, ready func()) error {
	session, err := layer.NewSession()
	if err != nil {
		return err
	}
	s := &supervisor{spec: spec, log: log, ready: ready, session: session}
	signals, release := catchSignals()
	defer release()
	for failed := 0; ; {
		session.ForgetAnswered()
		w, err := s.start()
		if err != nil {
			return err
		}
		err = s.follow(ctx, w, signals)
		var refused refusedBy
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused) && !session.Served():
			return s.withdraw(refused)
		}
		if failed++; session.Answered() {
			failed = 0
		}
		if failed == failedStarts {
			log.printf("gave up: %d workers in a row ended before they answered anything, the last one by: %v", failed, err)
			return fmt.Errorf("%d workers in a row ended before they answered anything, the last one by: %w", failed, err)
		}
		s.restarts++
		s.lastExit = err.Error()
		log.printf("the worker ended: %v; starting another", err)
	}
}

// withdraw unmounts what nobody could serve.
func (s *supervisor) withdraw(why error) error {
	if s.devices == nil {
		return why
	}
	for _, fd := range s.devices {
		unix.Close(fd)
	}
	return errors.Join(why, unmount(s.spec.mountpoint))
}

// refusedBy is why a worker does not serve, in its own words.
type refusedBy string

func (r refusedBy) Error() string { return string(r) }

// child is a worker as its supervisor sees it.
type child struct {
	cmd    *exec.Cmd
	socket int
}

// start starts a worker, with one end of a socket and the session.
func (s *supervisor) start() (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "supervisor")
	defer theirs.Close()
	memory, err := unix.FcntlInt(uintptr(s.session.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	shared := os.NewFile(uintptr(memory), "session")
	defer shared.Close()
	cmd := exec.Command(self, s.spec.args()...)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs, shared}
	cmd.Env = append(os.Environ(), workerEnv+"="+strconv.Itoa(s.restarts)+":"+s.lastExit)
	if s.spec.foreground {
		cmd.Stderr = s.log.out
	}
	// A terminal's ^C is for the supervisor, which passes it on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	return &child{cmd: cmd, socket: pair[0]}, nil
}

// follow goes along with a worker until it has ended: nil if the mount is over.
func (s *supervisor) follow(ctx context.Context, w *child, signals <-chan os.Signal) error {
	said := make(chan string)
	go w.listen(said)
	defer unix.Close(w.socket)
	var refused error
	asked := ctx.Done()
	for said != nil {
		select {
		case message, open := <-said:
			switch {
			case !open:
				said = nil
			case message == saidOpened:
				if err := s.attach(w); err != nil {
					refused = refusedBy(err.Error())
					_ = w.cmd.Process.Kill()
				}
			case message == saidServing:
				s.ready()
				s.ready = func() {}
			default:
				refused = refusedBy(message)
			}
		case sig := <-signals:
			_ = w.cmd.Process.Signal(sig)
		case <-asked:
			_ = w.cmd.Process.Signal(unix.SIGTERM)
			asked = nil
		}
	}
	err := w.cmd.Wait()
	if refused != nil {
		return refused
	}
	return err
}

// attach mounts, if that was not done yet, and hands over the descriptors.
func (s *supervisor) attach(w *child) error {
	if s.devices == nil {
		var err error
		if s.devices, err = fs.Attach(s.spec.store, s.spec.mountpoint, 0); err != nil {
			return err
		}
		if !s.spec.foreground { // the store is known to be one
			if err := s.log.open(filepath.Join(s.spec.store, "log")); err != nil {
				return err
			}
		}
	}
	if err := unix.Sendmsg(w.socket, []byte("devices"), unix.UnixRights(s.devices...), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("hand the mount's descriptors over: %w", err)
	}
	return nil
}

// listen passes on what the worker says, until its end is closed: then it is gone, or about to be.
func (w *child) listen(said chan<- string) {
	defer close(said)
	for p := make([]byte, 64<<10); ; {
		n, err := unix.Read(w.socket, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			return
		default:
			said <- string(p[:n])
		}
	}
}

// What workers say, beside why they refuse.
const (
	saidOpened  = "\x00opened"  // the store: ask for the descriptors
	saidServing = "\x00serving" // the mount answers
)

// workerEnv makes a process a worker: how often there was one before, and how the last one ended. Descriptor 3 is the
// socket to its supervisor, 4 the session.
const workerEnv = "SNAPFS_WORKER"

const (
	workerSocket  = 3
	workerSession = 4
)
