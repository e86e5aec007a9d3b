package main

// Handing a mount over to another version: the supervisor becomes the new program, with the descriptors, the session and
// its process id kept; that starts a worker of its own. If none comes up, it becomes the old program again.
//
// It is tried before, in a process of its own, as far as it can be while the old worker serves: to the point from which on a
// new supervisor would start its worker. For the way from there to a worker there is a guard: see guard.go.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// tryTime is how long a program may take to be tried.
const tryTime = 10 * time.Second

// trialTime is how long a new version's worker may take until it serves.
var trialTime = time.Minute

// upgrade is how far a supervisor is with becoming another version, or with having become one.
type upgrade struct {
	program string           // where this one was started from, and the next will be
	old     int              // descriptor of the program of before, while it may have to come back
	format  int              // the version of the store's format, which that knows
	trial   <-chan time.Time // the end of that

	trying  bool
	tried   chan error
	next    os.FileInfo // what is tried
	refusal fs.Refusal  // of those that could not take over
}

func (u *upgrade) adopt(k *handover) {
	u.old = k.Old
	if k.Program != "" { // as the descriptor of an old program has no name
		u.program = k.Program
	}
	if u.old != 0 {
		u.trial = time.After(trialTime)
	}
}

// tryNext begins to try the program that is installed now.
func (s *supervisor) tryNext() {
	u := &s.upgrade
	if u.trying {
		return
	}
	u.trying = true
	var err error
	if u.next, err = os.Stat(u.program); err != nil {
		u.tried <- err
		return
	}
	program, args, k := u.program, s.spec.args(), s.kept("")
	go func() { u.tried <- tryProgram(program, args, k) }()
}

// tryProgram says whether a program is snapfs, and can take over what is kept.
func tryProgram(program string, args []string, k *handover) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTime)
	defer cancel()
	out, err := runBriefly(ctx, exec.CommandContext(ctx, program, "--version"))
	switch {
	case err != nil:
		return fmt.Errorf("%s --version: %w", program, err)
	case !strings.HasPrefix(out, "snapfs version "):
		return fmt.Errorf("%s is not snapfs", program)
	}
	session, err := duplicate(k.Session, "session")
	if err != nil {
		return err
	}
	defer session.Close()
	const first = 3
	text, err := json.Marshal(&handover{Session: first, Restarts: k.Restarts, LastExit: k.LastExit, Ending: k.Ending})
	if err != nil {
		return err
	}
	// An argument, as a version that knows of no trying would take what is kept in earnest.
	cmd := exec.CommandContext(ctx, program, append([]string{args[0], "--" + tryFlag}, args[1:]...)...)
	cmd.ExtraFiles = []*os.File{session}
	cmd.Env = append(os.Environ(), keptEnv+"="+string(text))
	if _, err := runBriefly(ctx, cmd); err != nil {
		return fmt.Errorf("%s can't take over: %w", program, err)
	}
	return nil
}

// tryFlag has a program say whether it could go on with what is kept, and no more.
const tryFlag = "try"

// tryKept is what it does then.
func tryKept(spec mountSpec) error {
	k, err := takeKept()
	if err != nil {
		return err
	}
	if k == nil {
		return errors.New("there is nothing to go on with")
	}
	_, err = newSupervisor(spec, newDaemonLog(nil), func() {}, k)
	return err
}

// runBriefly runs a command of the context, and returns what it writes; its error has the first line of the complaint.
func runBriefly(ctx context.Context, cmd *exec.Cmd) (string, error) {
	cmd.WaitDelay = time.Second // for children of its own
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("it did not end within %v", tryTime)
	case errors.As(err, &exit) && len(exit.Stderr) > 0:
		line, _, _ := strings.Cut(string(exit.Stderr), "\n")
		err = fmt.Errorf("%w: %s", err, line)
	}
	return string(out), err
}

// refuse has the worker serve on, as what was tried can't, and say so.
func (s *supervisor) refuse(w *child, why error) {
	s.log.printf("the upgrade failed: %v", why)
	s.upgrade.refusal.Count++
	s.upgrade.refusal.Why = oneLine(why.Error())
	if w.serving {
		s.tellRefusal(w, false)
	}
}

// refusalNote is what a worker is told of it, that one of before may have been told.
type refusalNote struct {
	fs.Refusal
	Again bool `json:"again"`
}

func (s *supervisor) tellRefusal(w *child, again bool) {
	text, err := json.Marshal(refusalNote{s.upgrade.refusal, again})
	if err == nil {
		err = unix.Sendto(w.socket, text, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
	}
	if err != nil {
		s.log.printf("tell the worker: %v", err)
	}
}

// replace becomes the program that was tried. It returns why not: this one goes on then.
func (s *supervisor) replace() string {
	err := s.becomeNext()
	s.log.printf("the upgrade failed: %v", err)
	return oneLine(fmt.Sprintf("upgrade failed: %v", err))
}

func (s *supervisor) becomeNext() error {
	u := &s.upgrade
	now, err := os.Stat(u.program)
	if err != nil {
		return err
	}
	if !os.SameFile(now, u.next) || now.Size() != u.next.Size() || now.ModTime() != u.next.ModTime() {
		return fmt.Errorf("%s was replaced once more while it was tried; upgrade again", u.program)
	}
	old, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	s.session.Renew() // the guard waits for an answer
	if err := s.guard(); err != nil {
		s.log.printf("nobody watches over the upgrade: %v", err)
	}
	s.log.printf("becoming %s", u.program)
	k := s.kept(upgraded)
	k.Old = old
	return s.become(u.program, k)
}

// endTrial lets go of the version of before, or ends a worker that does not serve.
func (s *supervisor) endTrial(w *child) error {
	s.upgrade.trial = nil
	if !w.serving {
		return fmt.Errorf("its worker did not serve within %v", trialTime)
	}
	unix.Close(s.upgrade.old)
	s.upgrade.old = 0
	return nil
}

// goBack becomes the version of before, as no worker of this one came up. It returns why it could not. Where the store's
// format was raised meanwhile, that version would refuse it.
func (s *supervisor) goBack(why error) error {
	now, err := layer.FormatOf(s.spec.store)
	if err == nil && now != s.upgrade.format {
		err = fmt.Errorf("it has version %d of the format now", now)
	}
	if err != nil {
		return fmt.Errorf("%w; the version of before does not come back, as it may not know the store: %w", why, err)
	}
	return s.returnTo(s.kept(""), why)
}

func (s *supervisor) returnTo(k *handover, why error) error {
	s.log.printf("the new version did not come up: %v; going back", why)
	k.LastExit = oneLine(fmt.Sprintf("upgrade failed: the new version did not come up: %v", why))
	program := fmt.Sprintf("/proc/self/fd/%d", k.Old)
	k.Old = 0
	return fmt.Errorf("the new version did not come up: %w; nor did the old one: %w", why, s.become(program, k))
}

// become turns this process into another program, or returns why it could not. Signals would kill that before it catches
// them: what is ignored now stays so in a new program, but for SIGTERM in the few milliseconds before its main.
func (s *supervisor) become(program string, k *handover) error {
	signal.Ignore(theSignals...)
	for len(s.signals) > 0 {
		if sig := <-s.signals; sig != unix.SIGHUP {
			s.heed(sig)
		}
	}
	k.Ending = s.ending
	err := k.exec(program, s.spec.args())
	if s.signals != nil {
		signal.Notify(s.signals, theSignals...)
	}
	return err
}

// upgraded is how a worker ended that an upgrade replaced.
const upgraded = "replaced by an upgrade"

// keptEnv hands a mount on to the program that the supervisor becomes.
const keptEnv = "SNAPFS_KEPT"

// handover is what one program leaves to the next.
type handover struct {
	Session  int    `json:"session"` // descriptor
	Devices  []int  `json:"devices"` // descriptors
	Old      int    `json:"old"`     // descriptor of the program of before, to return to; 0: this is it
	Program  string `json:"program"` // where the next version will be
	Restarts int    `json:"restarts"`
	LastExit string `json:"last_exit"`
	Ending   ending `json:"ending"`
	Answers  uint64 `json:"answers,omitempty"` // of workers, when a guard was left behind
}

// kept is what the next program needs.
func (s *supervisor) kept(lastExit string) *handover {
	return &handover{
		Session: s.session.FD(), Devices: s.devices, Old: s.upgrade.old, Program: s.upgrade.program,
		Restarts: s.restarts, LastExit: lastExit, Ending: s.ending,
	}
}

// takeKept takes over what a supervisor of before kept, if this process was one.
func takeKept() (*handover, error) {
	text, ok := os.LookupEnv(keptEnv)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(keptEnv)
	k := new(handover)
	if err := json.Unmarshal([]byte(text), k); err != nil {
		return nil, fmt.Errorf("%s: %w", keptEnv, err)
	}
	for _, fd := range append([]int{k.Session, k.Old}, k.Devices...) {
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return k, nil
}

// text is it as keptEnv has it.
func (k *handover) text() (string, error) {
	text, err := json.Marshal(k)
	return string(text), err
}

// exec leaves all of it to another program.
func (k *handover) exec(program string, args []string) error {
	text, err := k.text()
	if err != nil {
		return err
	}
	fds := append([]int{k.Session}, k.Devices...)
	if k.Old != 0 {
		fds = append(fds, k.Old)
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	err = unix.Exec(program, append([]string{os.Args[0]}, args...), append(os.Environ(), keptEnv+"="+text))
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fmt.Errorf("start %s: %w", program, err)
}
