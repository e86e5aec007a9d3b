package main

// A worker as its supervisor sees it: a process at the other end of a socket, which says how far it is and is given the
// mount's descriptors.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
)

// What workers say, beside why they refuse.
const (
	saidOpened   = "\x00opened"   // the store: ask for the descriptors
	saidServing  = "\x00serving"  // the mount answers
	saidDetached = "\x00detached" // the mount, from the directory tree
	saidFull     = "\x00full"     // the store's file system is, before why it does not serve
	saidOver     = "\x00over"     // the mount is, and its store could not be closed without an error
)

// toldDrain is said to a worker: end once no command is under way, another goes on. It is no signal, as those come from
// anybody, and a worker that ends in order is the mount's end unless the supervisor wanted it.
const toldDrain = "\x00drain"

// workerEnv makes a process a worker: how often there was one before, what the mount is asked, and how the last one
// ended. Descriptor 3 is the socket to its supervisor, 4 the session.
const workerEnv = "SNAPFS_WORKER"

const (
	workerSocket  = 3
	workerSession = 4
)

// child is a worker.
type child struct {
	cmd      *exec.Cmd
	socket   int
	told     ending // what the mount is asked, as far as it knows
	serving  bool
	replaced bool // it was asked to make room for another version
}

// refusedBy is why a worker does not serve, in its own words.
type refusedBy string

func (r refusedBy) Error() string { return string(r) }

// start starts a worker, with one end of a socket and the session.
func (s *supervisor) start() (*child, error) {
	if s.devices == nil && s.ending != notAsked {
		return nil, errEarlyEnd
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "supervisor")
	defer theirs.Close()
	shared, err := duplicate(s.session.FD(), "session")
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer shared.Close()
	cmd := exec.Command("/proc/self/exe", s.spec.args()...) // this version, whatever has been installed since
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs, shared}
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%d:%s", workerEnv, s.restarts, s.ending, s.lastExit))
	if s.spec.foreground {
		cmd.Stderr = s.log.out
	}
	// A terminal's ^C is for the supervisor, which passes it on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := startWithSlack(cmd); err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	return &child{cmd: cmd, socket: pair[0], told: s.ending}, nil
}

// errEarlyEnd is the end of a mount that was none yet.
var errEarlyEnd = errors.New("asked to end before the store was mounted")

// duplicate makes another descriptor of the same file.
func duplicate(fd int, name string) (*os.File, error) {
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the %s's descriptor: %w", name, err)
	}
	return os.NewFile(uintptr(other), name), nil
}

// follow goes along with a worker until it has ended: nil if the mount is over.
func (s *supervisor) follow(w *child) error {
	said := make(chan string)
	go w.listen(said)
	defer unix.Close(w.socket)
	var refused error
	for said != nil {
		var err error
		select {
		case message, open := <-said:
			if !open {
				said = nil
				break
			}
			err = s.hear(w, message)
		case sig := <-s.signals:
			err = s.pass(w, sig)
		case why := <-s.upgrade.tried:
			s.upgrade.trying = false
			if why != nil {
				s.refuse(w, why)
				break
			}
			w.replaced = true
			err = s.drain(w)
		case <-s.upgrade.trial:
			err = s.endTrial(w)
		}
		if err == nil {
			continue
		}
		if refused == nil {
			refused = refusedBy(err.Error())
			if errors.As(err, new(mountRefused)) && unix.Shutdown(w.socket, unix.SHUT_WR) == nil {
				continue // it ends by that, and takes a new store away again
			}
		}
		_ = w.cmd.Process.Kill()
	}
	err := w.cmd.Wait()
	if refused != nil {
		return refused
	}
	return err
}

// hear does what a worker's word is about. An error ends the worker.
func (s *supervisor) hear(w *child, message string) error {
	switch message {
	case saidOpened:
		return s.attach(w)
	case saidDetached:
		s.ending = detached
	case saidFull:
		s.full = true
	case saidOver:
		s.over = true
	case saidServing:
		w.serving = true
		s.ready()
		s.ready = func() {}
		if s.upgrade.refusal.Count > 0 {
			s.tellRefusal(w, true)
		}
		for ; w.told < s.ending; w.told++ { // before now it would have died of that
			_ = w.cmd.Process.Signal(unix.SIGTERM)
		}
		if w.replaced {
			return s.drain(w)
		}
		s.tell("READY=1", fmt.Sprintf("STATUS=serving %s at %s, version %s", s.spec.store, s.spec.mountpoint, version()))
	default: // it ends by itself
		return errors.New(message)
	}
	return nil
}

// drain has a worker end for the next one, as soon as it serves. An error ends it at once.
func (s *supervisor) drain(w *child) error {
	if !w.serving {
		return nil
	}
	if err := unix.Sendto(w.socket, []byte(toldDrain), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil); err != nil {
		return fmt.Errorf("ask the worker to make room: %w", err)
	}
	return nil
}

// pass passes on what a signal asks for. An error ends the worker.
func (s *supervisor) pass(w *child, sig os.Signal) error {
	switch {
	case sig == unix.SIGHUP && s.upgrade.old != 0 && !w.serving:
		return nil // which version is to serve is being found out
	case sig != unix.SIGHUP && s.devices == nil:
		s.heed(sig)
		return errEarlyEnd
	case sig != unix.SIGHUP && w.serving:
		_ = w.cmd.Process.Signal(unix.SIGTERM)
	}
	s.heed(sig)
	return nil
}

// mountRefused is why there is no mount.
type mountRefused struct{ error }

// attach mounts, if that was not done yet, and hands over the descriptors.
func (s *supervisor) attach(w *child) error {
	if s.devices == nil {
		if !s.spec.foreground { // the store is known to be one
			if err := s.openLog(); err != nil {
				return err
			}
		}
		var err error
		if s.devices, err = fs.Attach(s.spec.store, s.spec.mountpoint, 0); err != nil {
			return mountRefused{err}
		}
		// Before anybody serves: a request that was read through a device that nobody keeps is lost with the worker.
		if err := s.manager.keep(s.session.FD(), s.devices); err != nil {
			s.log.printf("the mount will not outlive its processes: %v", err)
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
