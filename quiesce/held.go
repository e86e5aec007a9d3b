package quiesce

// Who is held still, as it is written down before it is done, and letting go of them after a crash.

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// Held is a guest that is about to be held, and how to let go of it; and the scripts that are to run after the snapshot,
// which end what those before it began. It is kept where it survives the daemon.
type Held struct {
	Agent   string `json:"agent,omitempty"`   // its address: file systems are frozen
	QMP     string `json:"qmp,omitempty"`     // its address: the machine is stopped
	Running bool   `json:"running,omitempty"` // the machine ran before
	Memory  bool   `json:"memory,omitempty"`  // its memory is being saved

	Post     []string `json:"post,omitempty"`     // the scripts
	VM       string   `json:"vm,omitempty"`       // what they are told
	Snapshot string   `json:"snapshot,omitempty"` // likewise
}

// Guest says whether it is about a guest, and not only about scripts.
func (h Held) Guest() bool { return h.Agent != "" || h.QMP != "" }

// RunPost runs the scripts that were still to run, each once, and joins their errors.
func RunPost(ctx context.Context, h Held) (err error) {
	for _, path := range h.Post {
		err = errors.Join(err, runScript(ctx, path, scriptEnv(h.VM, h.Snapshot), ScriptTime))
	}
	return err
}

// Release lets go of a guest. It tries until it succeeds, the guest turns out to run no more, or the context
// ends; the error is that of the last try.
func Release(ctx context.Context, h Held) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := h.release(ctx)
		if err == nil || Gone(err) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

func (h Held) release(ctx context.Context) error {
	if !h.Guest() {
		return nil
	}
	if h.Agent != "" {
		a := openAgent(h.Agent)
		defer a.Close()
		_, err := (&frozen{agent: a}).release(ctx)
		return err
	}
	q := openQMP(h.QMP)
	defer q.Close()
	return q.resume(ctx, h)
}

// resume lets a machine go on that ran, unless it stands still for a reason of its own.
func (q *QMP) resume(ctx context.Context, h Held) error {
	if h.Memory {
		if err := q.cancelMigration(ctx); err != nil {
			return err
		}
	}
	if !h.Running {
		return nil
	}
	state, err := q.Status(ctx)
	if err != nil || !state.held() {
		return err
	}
	return q.Cont(ctx)
}

// Gone says whether an error tells that nobody is behind an address: a guest that does not run is not held.
func Gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) || errors.Is(err, errNoDomain)
}

// frozen is a guest whose agent freezes its file systems.
type frozen struct {
	agent       *Agent
	mountpoints []string
	count       int
}

func (f *frozen) hold(ctx context.Context) (err error) {
	f.count, err = f.agent.Freeze(ctx, f.mountpoints)
	return err
}

func (f *frozen) release(ctx context.Context) (moved, err error) {
	n, err := f.agent.Thaw(ctx)
	switch {
	case err == nil && n != f.count:
		return &countError{frozen: f.count, thawed: n}, nil
	case !answered(err):
		return nil, err
	}
	// VSS may have thawed long before, and says so with an error.
	still, statusErr := f.agent.Frozen(ctx)
	if still || (statusErr != nil && !answered(statusErr)) {
		return nil, err
	}
	return err, nil
}

// stopped is a machine whose virtual CPUs are stopped.
type stopped struct {
	qmp *QMP
}

func (s *stopped) hold(ctx context.Context) error { return s.qmp.Stop(ctx) }

func (s *stopped) release(ctx context.Context) (moved, err error) {
	return nil, s.qmp.resume(ctx, Held{Running: true})
}
