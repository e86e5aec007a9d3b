package quiesce

// A session: what is done to a guest around one snapshot.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// How consistent a snapshot is.
const (
	Off         = "off"         // nobody had a file open for writing
	Crash       = "crash"       // as after a power failure
	FileSystem  = "filesystem"  // the guest's file systems were frozen
	Application = "application" // and its applications knew
)

// Request says what a session is for.
type Request struct {
	Policy       Policy
	VM, Snapshot string   // names, for the scripts
	Hooks        []string // base names of the scripts to run; none: all
	Running      bool     // a file of the VM is open for writing. If not, only the scripts run.
	Memory       *Memory  // save the machine's memory too; needs Policy.QMP as a socket

	// Mark writes down, so that it survives a crash, who is about to be held and which scripts are to follow; nil takes
	// that back. It may be nil.
	Mark func(*Held) error
}

// Outcome is what a session came to.
type Outcome struct {
	Consistency string        // Off, Crash, FileSystem or Application
	Warning     string        // what the operator should know, in one line; empty: nothing
	Swapped     bool          // the swap was done
	Paused      time.Duration // from asking the guest to be still to having let go
	Held        *Held         // the guest may still be held: pass this to Release, in the background
}

// Session is what is done to a guest around one snapshot: Start, Hold, End, in this order, by one goroutine. End is always
// called.
type Session struct {
	req         Request
	agent       *Agent
	qmp         *QMP
	ran         bool // the machine runs, says the monitor
	outcome     Outcome
	warnings    []string
	givenUp     bool // the mode allows to go on without the guest, and that is what is done
	scriptsRun  int
	scriptsFail bool
	owed        []string // scripts that are still to run, as is written down
	ended       bool
}

// New makes a session; nothing is done yet. EINVAL for a bad policy, for hooks that no script is named like, for
// memory without a monitor's socket.
func New(r Request) (*Session, error) {
	if err := r.Policy.Check(); err != nil {
		return nil, err
	}
	if err := checkHooks(r.Policy, r.Hooks); err != nil {
		return nil, err
	}
	switch {
	case r.Memory == nil:
	case r.Policy.QMP == "":
		return nil, invalid("memory needs quiesce.qmp in the policy")
	case isLibvirt(r.Policy.QMP):
		return nil, invalid("memory needs a monitor's socket: %s hands no descriptors on", r.Policy.QMP)
	}
	s := &Session{req: r}
	s.outcome.Consistency = Off
	if r.Running {
		s.outcome.Consistency = Crash
	}
	return s, nil
}

// Start runs the pre scripts and reaches the agent or monitor: ETIMEDOUT or EIO, and then the snapshot is not to be taken.
func (s *Session) Start(ctx context.Context) error {
	if err := s.owe(); err != nil {
		return err
	}
	for _, path := range chosen(s.req.Policy.Pre, s.req.Hooks) {
		if err := s.script(ctx, path); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	return s.orGiveUp(s.reach(ctx))
}

// owe writes down, before anything is done, what is to be done at the end in any case.
func (s *Session) owe() error {
	if s.owed = chosen(s.req.Policy.Post, s.req.Hooks); len(s.owed) == 0 {
		return nil
	}
	err := s.mark(&Held{})
	if err != nil {
		s.owed = nil
	}
	return err
}

func (s *Session) script(ctx context.Context, path string) error {
	s.scriptsRun++
	err := runScript(ctx, path, scriptEnv(s.req.VM, s.req.Snapshot), ScriptTime)
	if err != nil {
		s.scriptsFail = true
	}
	return err
}

func (s *Session) timeout() time.Duration { return time.Duration(s.req.Policy.Timeout) }

// mode is what is done to the guest, for the policy's mode is for one that runs. With its memory a guest keeps what it
// has not written yet, so it is not frozen; it would be found frozen when it is started from there.
func (s *Session) mode() Mode {
	if !s.req.Running || s.req.Memory != nil || s.givenUp {
		return ModeNone
	}
	return s.req.Policy.Mode
}

// reach connects to whoever is needed and refuses a guest that somebody else has frozen: our thaw would end that.
func (s *Session) reach(ctx context.Context) (err error) {
	if s.req.Memory != nil || s.mode() == ModePause {
		if s.qmp, err = DialQMP(ctx, s.req.Policy.QMP); err != nil {
			return err
		}
		state, err := s.qmp.Status(ctx)
		s.ran = state.Running
		return err
	}
	if s.mode() == ModeNone {
		return nil
	}
	if s.agent, err = DialAgent(ctx, s.req.Policy.Agent); err != nil {
		return err
	}
	already, err := s.agent.Frozen(ctx)
	switch {
	case err != nil && !answered(err): // else it does not know, so freeze has to show
		return err
	case already:
		return failed(errors.New("its file systems are frozen already"), "guest agent %s", s.req.Policy.Agent)
	}
	return nil
}

// orGiveUp takes an error for a warning if the mode allows to go on without the guest.
func (s *Session) orGiveUp(err error) error {
	if err == nil || s.mode() != ModeAgentOrCrash {
		return err
	}
	s.givenUp = true
	s.warn("not quiesced: %v", err)
	return nil
}

func (s *Session) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// Hold holds the guest still while it calls swap, once at most and never after it has returned. What it returns is swap's
// own error, or ETIMEDOUT or EIO if the snapshot is not to be kept; Outcome tells whether the swap was done. Flushes
// that the guest asks for must go through until swap is called, because freeze and stop wait for them.
func (s *Session) Hold(ctx context.Context, swap func() error) error {
	counted := func() error {
		err := swap()
		s.outcome.Swapped = err == nil
		return err
	}
	if s.req.Memory != nil {
		return s.holdMemory(ctx, counted)
	}
	switch s.mode() {
	case ModeAgent, ModeAgentOrCrash:
		return s.holdFrozen(ctx, counted)
	case ModePause:
		return s.holdStopped(ctx, counted)
	}
	return counted()
}

func (s *Session) holdFrozen(ctx context.Context, swap func() error) error {
	guest := &frozen{agent: s.agent, mountpoints: s.req.Policy.Mountpoints}
	w, err := s.window(ctx, guest, &Held{Agent: s.req.Policy.Agent}, swap)
	if w != nil && w.swapErr != nil {
		return w.swapErr
	}
	if err = s.orGiveUp(err); err != nil {
		return err
	}
	switch {
	case !s.outcome.Swapped:
		return swap()
	case s.givenUp:
	case w.moved != nil:
		s.warn("the guest was not frozen all the time: %v", w.moved)
	case s.req.Policy.GuestHooks:
		s.outcome.Consistency = Application
	default:
		s.outcome.Consistency = FileSystem
	}
	return nil
}

func (s *Session) holdStopped(ctx context.Context, swap func() error) error {
	if !s.ran { // it stands still as it is, and stays so
		return swap()
	}
	w, err := s.window(ctx, &stopped{qmp: s.qmp}, &Held{QMP: s.req.Policy.QMP, Running: true}, swap)
	if w != nil && w.swapErr != nil {
		return w.swapErr
	}
	return err
}

// window marks the guest and holds it. Without a window nothing was done.
func (s *Session) window(ctx context.Context, guest holder, held *Held, swap func() error) (*window, error) {
	if err := s.mark(held); err != nil {
		return nil, err
	}
	w := openWindow(ctx, guest, s.timeout(), swap)
	s.outcome.Paused = w.took
	if w.stuck != nil {
		s.outcome.Held = held
	} else {
		s.unmark()
	}
	return w, w.err()
}

func (s *Session) mark(held *Held) error {
	if s.req.Mark == nil {
		return nil
	}
	if len(s.owed) > 0 {
		var all Held
		if held != nil {
			all = *held
		}
		all.Post, all.VM, all.Snapshot = s.owed, s.req.VM, s.req.Snapshot
		held = &all
	}
	if err := s.req.Mark(held); err != nil {
		return &Error{Errno: syscall.EIO, Text: "writing down who is held: " + err.Error(), cause: err}
	}
	return nil
}

// unmark may fail: then the next start lets go of a guest that is not held, which does nothing, or runs scripts again.
func (s *Session) unmark() { s.unmarkBut(nil) }

func (s *Session) unmarkBut(held *Held) {
	if err := s.mark(held); err != nil {
		s.warn("%v", err)
	}
}

// Outcome is what the session has come to so far. What it says of consistency can be relied on, and can only get better
// by End.
func (s *Session) Outcome() Outcome {
	o := s.outcome
	o.Warning = strings.Join(s.warnings, "; ")
	return o
}

func (s *Session) hangUp() {
	if s.agent != nil {
		s.agent.Close()
	}
	if s.qmp != nil {
		s.qmp.Close()
	}
}

// End runs the post scripts, whatever came before them, and hangs up. The first call's outcome is final.
func (s *Session) End(ctx context.Context) Outcome {
	if s.ended {
		return s.Outcome()
	}
	s.ended = true
	s.hangUp()
	for _, path := range chosen(s.req.Policy.Post, s.req.Hooks) {
		if err := s.script(context.WithoutCancel(ctx), path); err != nil {
			s.warn("%v", err)
		}
	}
	if len(s.owed) > 0 {
		s.owed = nil
		s.unmarkBut(s.outcome.Held)
	}
	if s.outcome.Consistency == FileSystem && s.scriptsRun > 0 && !s.scriptsFail {
		s.outcome.Consistency = Application
	}
	return s.Outcome()
}
