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
	manager  manager
	session  *layer.Session
	devices  []int // once mounted
	restarts int
	lastExit string
	program  string // where this program was started from, and the next version will be
	old      int    // descriptor of the version of before, until a worker of this one serves
}

// supervise runs a mount until it is unmounted, and calls ready once it answers. A cancelled context asks it to end, as a
// signal does. What was kept of the mount, if anything was, is gone on with.
func (a *app) supervise(ctx context.Context, spec mountSpec, log *daemonLog, ready func(), kept *handover) error {
	s, err := newSupervisor(spec, log, ready, kept)
	if err != nil {
		return err
	}
	signals, release := catchSignals()
	defer release()
	for failed := 0; ; {
		s.session.Renew()
		w, err := s.start()
		if err != nil {
			return err
		}
		err = s.follow(ctx, w, signals)
		blamed := 0
		if crashed(err) {
			blamed = s.session.Blame()
		}
		var refused refusedBy
		switch {
		case w.replaced:
			s.restarts++
			s.lastExit = s.replace()
			continue
		case err == nil:
			s.tell("STOPPING=1", "STATUS=unmounted")
			s.letGo()
			return nil
		case errors.As(err, &refused) && !s.session.Served():
			return s.withdraw(refused)
		case s.old != 0:
			return s.goBack(err)
		}
		if failed++; s.session.Answered() || blamed > 0 { // requests are blamed so often at most, and answered then
			failed = 0
		}
		s.lastExit = howEnded(err, blamed)
		if failed == failedStarts {
			log.printf("gave up: %d workers in a row ended before they answered anything, the last one by: %s", failed, s.lastExit)
			return fmt.Errorf("%d workers in a row ended before they answered anything, the last one by: %s", failed, s.lastExit)
		}
		s.restarts++
		s.tell("STATUS=starting another worker, as one ended: " + s.lastExit)
		log.printf("the worker ended: %s; starting another", s.lastExit)
	}
}

// newSupervisor begins with nothing, or with what was kept.
func newSupervisor(spec mountSpec, log *daemonLog, ready func(), k *handover) (s *supervisor, err error) {
	s = &supervisor{spec: spec, log: log, ready: ready, manager: managerOf(spec)}
	if s.program, err = os.Executable(); err != nil {
		return nil, err
	}
	if k == nil {
		s.session, err = layer.NewSession()
		return s, err
	}
	if k.Program != "" { // as the descriptor of an old program has no name
		s.program = k.Program
	}
	s.devices, s.old, s.restarts, s.lastExit = k.Devices, k.Old, k.Restarts, k.LastExit
	if !spec.foreground {
		if err := log.open(filepath.Join(spec.store, "log")); err != nil {
			return nil, err
		}
	}
	if s.session, err = layer.AdoptSession(k.Session); err != nil && s.old != 0 {
		s.session = nil
		return nil, s.returnTo(k, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the mount waits for the version that served it before: %w", err)
	}
	return s, nil
}

// replace becomes the program that is installed now. It returns why not: this one goes on then.
func (s *supervisor) replace() string {
	old, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = tryProgram(s.program)
	}
	if err == nil {
		s.log.printf("becoming %s", s.program)
		k := s.kept(upgraded)
		k.Old = old
		err = k.become(s.program, s.spec.args())
		unix.Close(old)
	}
	s.log.printf("the upgrade failed: %v", err)
	return fmt.Sprintf("upgrade failed: %v", err)
}

// goBack becomes the version of before, as no worker of this one came up.
func (s *supervisor) goBack(why error) error { return s.returnTo(s.kept(""), why) }

func (s *supervisor) returnTo(k *handover, why error) error {
	s.log.printf("the new version did not come up: %v; going back", why)
	k.LastExit = oneLine(fmt.Sprintf("upgrade failed: the new version did not come up: %v", why))
	program := fmt.Sprintf("/proc/self/fd/%d", k.Old)
	k.Old = 0
	return k.become(program, s.spec.args())
}

// kept is what the next program needs.
func (s *supervisor) kept(lastExit string) *handover {
	return &handover{
		Session: s.session.FD(), Devices: s.devices, Old: s.old, Program: s.program, Restarts: s.restarts, LastExit: lastExit,
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
	s.letGo()
	return errors.Join(why, unmount(s.spec.mountpoint))
}

// refusedBy is why a worker does not serve, in its own words.
type refusedBy string

func (r refusedBy) Error() string { return string(r) }

// child is a worker as its supervisor sees it.
type child struct {
	cmd      *exec.Cmd
	socket   int
	replaced bool // it was asked to make room for another version
}

// start starts a worker, with one end of a socket and the session.
func (s *supervisor) start() (*child, error) {
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
	cmd := exec.Command("/proc/self/exe", s.spec.args()...) // this version, whatever has been installed since
	cmd.Args[0] = os.Args[0]
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
				s.served()
				s.tell("READY=1", fmt.Sprintf("STATUS=serving %s at %s, version %s", s.spec.store, s.spec.mountpoint, version()))
			default:
				refused = refusedBy(message)
			}
		case sig := <-signals:
			if sig == unix.SIGHUP {
				w.replaced = s.session.Served()
				sig = signalDrain
			}
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

// served notes that a worker of this version serves.
func (s *supervisor) served() {
	if s.old != 0 {
		unix.Close(s.old)
		s.old = 0
	}
}

// tell says how the mount stands, to whom it may concern.
func (s *supervisor) tell(lines ...string) {
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	if err := s.manager.say(lines); err != nil {
		s.log.printf("%v", err)
	}
}

// letGo has nobody keep a mount that is over.
func (s *supervisor) letGo() {
	if err := s.manager.drop(); err != nil {
		s.log.printf("%v", err)
	}
}

// attach mounts, if that was not done yet, and hands over the descriptors.
func (s *supervisor) attach(w *child) error {
	if s.devices == nil {
		var err error
		if s.devices, err = fs.Attach(s.spec.store, s.spec.mountpoint, 0); err != nil {
			return err
		}
		// Before anybody serves: a request that was read through a device that nobody keeps is lost with the worker.
		if err := s.manager.keep(s.session.FD(), s.devices); err != nil {
			s.log.printf("the mount will not outlive its processes: %v", err)
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
