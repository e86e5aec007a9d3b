package main

// Taking a snapshot as the VM's policy wants it.
//
//	pre scripts, reach the guest    nobody waits
//	prepare                         nobody waits: what the guest would wait for is flushed
//	freeze, swap, thaw              the guest stands still
//	seal, beside the thaw           its flushes wait
//	post scripts, label             nobody waits
//
// With the machine's memory, that is saved instead of the second step, while the machine runs for as long as that is
// worth it, and the rest of the memory and the second step are part of the third.

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

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
	missed map[layer.VMID]string       // why the last snapshot of a VM was not what its policy wants; empty: it was
	under  map[layer.VMID]*fs.Progress // how far a snapshot is that takes its time
	silent map[layer.VMID]string       // why a guest did not answer when it was last asked; empty: it did
	asked  map[layer.VMID]time.Time
	probes map[layer.VMID]context.CancelFunc
}

func newTaker(ctx context.Context, held *heldGuests, event func(vm, event string, attrs ...any), mountpoint string) *taker {
	return &taker{
		ctx: ctx, held: held, event: event, mountpoint: mountpoint,
		turns: make(map[layer.VMID]*sync.Mutex), missed: make(map[layer.VMID]string), under: make(map[layer.VMID]*fs.Progress),
		silent: make(map[layer.VMID]string), asked: make(map[layer.VMID]time.Time), probes: make(map[layer.VMID]context.CancelFunc),
	}
}

// attempt is one snapshot that is being taken.
type attempt struct {
	*taker
	vm      *layer.VM
	request fs.CreateRequest
	policy  layer.QuiescePolicy
	running bool // a file of it is open for writing
	session *quiesce.Session
	pending *layer.Pending // once prepared
	memory  *saving        // of the machine; nil: not asked for
	ram     int64          // what the machine has of it, in bytes, as far as is known
	warning string         // beside the session's own
}

// take takes a snapshot: layer's errors, ETIMEDOUT and EIO for guests and scripts, EINVAL for hooks that there are not.
// After an error there is no snapshot.
func (t *taker) take(v *layer.VM, r fs.CreateRequest) (fs.Created, error) {
	turn := t.turn(v.ID())
	t.endProbe(v.ID())
	turn.Lock()
	defer turn.Unlock()
	a := &attempt{taker: t, vm: v, request: r, policy: v.Policy().Quiesce}
	if err := a.check(); err != nil {
		return fs.Created{}, err
	}
	info, err := a.run()
	a.settle(err)
	return fs.Created{SnapshotInfo: info, Paused: a.session.Outcome().Paused}, err
}

// check refuses what can be refused before a script runs.
func (a *attempt) check() (err error) {
	if a.running, err = a.vm.MayCreate(a.request.CreateOptions); err != nil {
		return err
	}
	if err := checkScripts(slices.Concat(a.policy.Pre, a.policy.Post), a.mountpoint); err != nil {
		return err
	}
	request := quiesce.Request{
		Policy: quiescePolicy(a.policy), VM: a.vm.Name(), Snapshot: a.request.Name, Hooks: a.request.Hooks, Running: a.running,
		Mark: func(held *quiesce.Held) error { return a.held.mark(a.vm.ID(), held) },
	}
	if a.request.Memory {
		request.Memory = new(quiesce.Memory)
		a.memory = &saving{Memory: request.Memory}
	}
	if a.session, err = quiesce.New(request); err != nil {
		return err
	}
	// A worker before this one may have died while it held the guest, and this snapshot be asked for again. What the
	// scripts did for that is ended before they do it for this one.
	scripts := time.Duration(len(a.policy.Post)) * quiesce.ScriptTime
	if (a.running && a.freezes() || a.memory != nil || scripts > 0) && !a.held.await(a.vm.ID(), a.policy.MaxFrozen()+scripts) {
		return layer.Errorf(syscall.EIO, "the guest of VM %q could not be let go of yet, or scripts of an earlier snapshot still run; see its log", a.vm.Name())
	}
	return a.look()
}

// checkScripts refuses scripts in the mount: they could wait for this very daemon.
func checkScripts(paths []string, mountpoint string) error {
	for _, path := range paths {
		if isWithin(filepath.Clean(path), mountpoint) {
			return layer.Errorf(syscall.EINVAL, "script %s lies in the mount; keep it elsewhere", path)
		}
	}
	return nil
}

// freezes says whether the policy holds guests still in one way or another.
func (a *attempt) freezes() bool { return a.policy.Mode != string(quiesce.ModeNone) }

// run goes through the session, to its end whatever happens.
func (a *attempt) run() (layer.SnapshotInfo, error) {
	defer a.session.End(a.ctx)
	defer a.discardMemory()
	if err := a.begin(); err != nil {
		return layer.SnapshotInfo{}, err
	}
	info, err := a.hold()
	if err != nil {
		return layer.SnapshotInfo{}, err
	}
	before := a.session.Outcome()
	if after := a.session.End(a.ctx); after.Consistency != before.Consistency || after.Warning != before.Warning {
		info = a.relabel(info)
	}
	return info, nil
}

// begin does all that the guest need not wait for.
func (a *attempt) begin() error {
	if err := a.session.Start(a.ctx); err != nil {
		return err
	}
	if a.memory != nil {
		return a.prepareMemory()
	}
	return a.prepare()
}

func (a *attempt) prepare() error {
	options := a.request.CreateOptions
	options.Held = a.running && a.freezes()
	pending, err := a.vm.PrepareSnapshot(options)
	if err != nil {
		return err
	}
	if pending.Running() && !a.running && a.freezes() && a.memory == nil {
		pending.Abort()
		return layer.Errorf(syscall.EIO, "the guest of VM %q was started meanwhile; create the snapshot again", a.vm.Name())
	}
	a.pending = pending
	return nil
}

// hold freezes, swaps and thaws. The snapshot is sealed from the swap on, for the guest's thaw may wait for a flush, and
// flushes wait for that; but nobody sees it before it is known whether the guest was quiet.
func (a *attempt) hold() (info layer.SnapshotInfo, err error) {
	verdict, sealed := make(chan layer.Verdict, 1), make(chan struct{})
	holdErr := a.session.Hold(a.ctx, func() error {
		if a.pending == nil {
			if err := a.prepare(); err != nil {
				return err
			}
		}
		a.pending.Swap()
		go func() {
			defer close(sealed)
			info, err = a.pending.Seal(func() layer.Verdict { return <-verdict })
		}()
		return nil
	})
	if !a.session.Outcome().Swapped {
		if a.pending != nil {
			a.pending.Abort()
		}
		return layer.SnapshotInfo{}, holdErr
	}
	given := a.verdict()
	given.Err = holdErr
	verdict <- given
	<-sealed
	return info, err
}

// verdict is what is known so far. Whether a file was open for writing at the swap layer knows itself.
func (a *attempt) verdict() layer.Verdict {
	o := a.session.Outcome()
	verdict := layer.Verdict{Warning: a.warning}
	if o.Consistency != quiesce.Off {
		verdict.Consistency = o.Consistency
	}
	switch {
	case a.warning == "":
		verdict.Warning = o.Warning
	case o.Warning != "":
		verdict.Warning += "; " + o.Warning
	}
	return verdict
}

// relabel adds to a snapshot what the post scripts came to. It is there in any case.
func (a *attempt) relabel(info layer.SnapshotInfo) layer.SnapshotInfo {
	again, err := a.pending.Relabel(a.verdict())
	switch {
	case err == nil:
		return again
	case !errors.Is(err, syscall.ENOENT): // somebody deleted it
		a.event(a.vm.Name(), "label-failed", "snapshot", info.Name, "error", err)
	}
	return info
}

// settle tells what was done to the guest, and goes on letting go of it if need be.
func (a *attempt) settle(err error) {
	o := a.session.Outcome()
	if o.Held != nil {
		a.held.release(a.vm.ID(), *o.Held)
	}
	if o.Paused > 0 {
		mode := a.policy.Mode
		if a.memory != nil {
			mode = "memory"
		}
		a.event(a.vm.Name(), "guest-held", "snapshot", a.request.Name, "mode", mode, "ms", o.Paused.Milliseconds())
	}
	a.note(o, err)
}

// setProgress says how far a snapshot is; nil ends that.
func (a *attempt) setProgress(p *fs.Progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p == nil {
		delete(a.under, a.vm.ID())
		return
	}
	a.under[a.vm.ID()] = p
}

// progress is how far a snapshot of a VM is that takes its time; nil without one.
func (t *taker) progress(v *layer.VM) *fs.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.under[v.ID()]
}

func (a *attempt) warn(text string) {
	if a.warning != "" {
		text = a.warning + "; " + text
	}
	a.warning = text
}

// turn is held while a VM's snapshot is being taken. Ids are never reused.
func (t *taker) turn(id layer.VMID) *sync.Mutex {
	t.mu.Lock()
	defer t.mu.Unlock()
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
