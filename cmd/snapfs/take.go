package main

// Taking a snapshot as the VM's policy wants it.
//
//	pre scripts, reach the guest    nobody waits
//	prepare                         nobody waits: all is flushed
//	freeze, swap, thaw              the guest stands still
//	seal, beside the thaw           its flushes wait
//	post scripts, label             nobody waits

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

// taker takes snapshots, one of a VM at a time.
type taker struct {
	ctx        context.Context // ends with the daemon
	held       *heldGuests
	event      func(vm, event string, attrs ...any)
	mountpoint string

	mu     sync.Mutex
	turns  map[layer.VMID]*sync.Mutex
	missed map[layer.VMID]string // why the last snapshot of a VM was not what its policy wants
}

// take takes a snapshot: layer's errors, ETIMEDOUT and EIO for guests and scripts, EINVAL for hooks that there are not.
// After an error there is no snapshot.
func (t *taker) take(v *layer.VM, r fs.CreateRequest) (layer.SnapshotInfo, error) {
	turn := t.turn(v.ID())
	turn.Lock()
	defer turn.Unlock()
	// Whatever can be refused is, before a script runs.
	running, err := v.MayCreate(r.CreateOptions)
	if err != nil {
		return layer.SnapshotInfo{}, err
	}
	p := v.Policy().Quiesce
	session, err := quiesce.New(quiesce.Request{
		Policy: quiescePolicy(p), VM: v.Name(), Snapshot: r.Name, Hooks: r.Hooks, Running: running,
		Mark: func(held *quiesce.Held) error { return t.held.mark(v.ID(), held) },
	})
	if err != nil {
		return layer.SnapshotInfo{}, err
	}
	if running && p.Mode != string(quiesce.ModeNone) && t.held.isReleasing(v.ID()) {
		return layer.SnapshotInfo{}, layer.Errorf(syscall.EIO, "the guest of VM %q could not be let go of yet; see its log", v.Name())
	}
	var warning string
	if running && r.Files == nil { // else somebody chose what is in it
		if warning, err = t.checkDisks(v); err != nil {
			return layer.SnapshotInfo{}, err
		}
	}
	info, outcome, err := t.attempt(v, session, warning, r.CreateOptions, running)
	if outcome.Held != nil {
		t.held.release(v.ID(), *outcome.Held)
	}
	if outcome.Paused > 0 {
		t.event(v.Name(), "guest-held", "snapshot", r.Name, "mode", p.Mode, "ms", outcome.Paused.Milliseconds())
	}
	t.note(v.ID(), p, outcome, err)
	return info, err
}

// attempt goes through the session, to its end whatever happens. The snapshot gets the warning along with the session's.
func (t *taker) attempt(v *layer.VM, s *quiesce.Session, warning string, o layer.CreateOptions, running bool) (layer.SnapshotInfo, quiesce.Outcome, error) {
	pending, err := t.begin(v, s, o, running)
	if err != nil {
		return layer.SnapshotInfo{}, s.End(t.ctx), err
	}
	info, err := t.hold(s, pending, warning)
	before := s.Outcome()
	outcome := s.End(t.ctx)
	if err == nil && (outcome.Consistency != before.Consistency || outcome.Warning != before.Warning) {
		info = t.relabel(v, pending, info, verdictOf(outcome, warning))
	}
	return info, outcome, err
}

// begin does all that the guest need not wait for.
func (t *taker) begin(v *layer.VM, s *quiesce.Session, o layer.CreateOptions, running bool) (*layer.Pending, error) {
	if err := s.Start(t.ctx); err != nil {
		return nil, err
	}
	pending, err := v.PrepareSnapshot(o)
	if err != nil {
		return nil, err
	}
	if pending.Running() && !running && v.Policy().Quiesce.Mode != string(quiesce.ModeNone) {
		pending.Abort()
		return nil, layer.Errorf(syscall.EIO, "the guest of VM %q was started meanwhile; create the snapshot again", v.Name())
	}
	return pending, nil
}

// hold freezes, swaps and thaws. The snapshot is sealed from the swap on, for the guest's thaw may wait for a flush, and
// flushes wait for that; but nobody sees it before it is known whether the guest was quiet.
func (t *taker) hold(s *quiesce.Session, pending *layer.Pending, warning string) (info layer.SnapshotInfo, err error) {
	verdict, sealed := make(chan layer.Verdict, 1), make(chan struct{})
	var sealErr error
	holdErr := s.Hold(t.ctx, func() error {
		pending.Swap()
		go func() {
			defer close(sealed)
			info, sealErr = pending.Seal(func() layer.Verdict { return <-verdict })
		}()
		return nil
	})
	outcome := s.Outcome()
	if !outcome.Swapped {
		pending.Abort()
		return layer.SnapshotInfo{}, holdErr
	}
	given := verdictOf(outcome, warning)
	given.Err = holdErr
	verdict <- given
	<-sealed
	return info, sealErr
}

// verdictOf is what layer has to know. Whether a file was open for writing at the swap it knows itself.
func verdictOf(o quiesce.Outcome, warning string) layer.Verdict {
	verdict := layer.Verdict{Warning: warning}
	if o.Consistency != quiesce.Off {
		verdict.Consistency = o.Consistency
	}
	switch {
	case warning == "":
		verdict.Warning = o.Warning
	case o.Warning != "":
		verdict.Warning += "; " + o.Warning
	}
	return verdict
}

// relabel adds to a snapshot what the post scripts came to. It is there in any case.
func (t *taker) relabel(v *layer.VM, pending *layer.Pending, info layer.SnapshotInfo, verdict layer.Verdict) layer.SnapshotInfo {
	again, err := pending.Relabel(verdict)
	switch {
	case err == nil:
		return again
	case !errors.Is(err, syscall.ENOENT): // somebody deleted it
		t.event(v.Name(), "label-failed", "snapshot", info.Name, "error", err)
	}
	return info
}

// note keeps whether the guest was brought to rest, for status.
func (t *taker) note(id layer.VMID, p layer.QuiescePolicy, o quiesce.Outcome, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.missed, id)
	var failed *quiesce.Error
	switch {
	case errors.As(err, &failed):
		t.missed[id] = "the last snapshot failed: " + err.Error()
	case err == nil && p.Mode == string(quiesce.ModeAgentOrCrash) && o.Consistency == quiesce.Crash:
		t.missed[id] = "the last snapshot missed mode " + p.Mode + ": " + o.Warning
	}
}

// reasons are why a VM is not as its policy wants it, as far as its guest goes.
func (t *taker) reasons(v *layer.VM) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if why, ok := t.missed[v.ID()]; ok {
		return []string{why}
	}
	return nil
}

// forget drops what was learned of a VM under another policy.
func (t *taker) forget(id layer.VMID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.missed, id)
}

// turn is held while a VM's snapshot is being taken. Ids are never reused.
func (t *taker) turn(id layer.VMID) *sync.Mutex {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns == nil {
		t.turns, t.missed = make(map[layer.VMID]*sync.Mutex), make(map[layer.VMID]string)
	}
	if t.turns[id] == nil {
		t.turns[id] = new(sync.Mutex)
	}
	return t.turns[id]
}

// quiescePolicy is the part of a checked policy that package quiesce knows.
func quiescePolicy(p layer.QuiescePolicy) quiesce.Policy {
	return quiesce.Policy{
		Mode: quiesce.Mode(p.Mode), Agent: p.Agent, QMP: p.QMP, Timeout: quiesce.Duration(p.MaxFrozen()),
		Mountpoints: p.Mountpoints, GuestHooks: p.GuestHooks, Pre: p.Pre, Post: p.Post,
	}
}
