package main

// What went wrong with a VM's guest, for status.

import (
	"errors"
	"slices"

	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

// note keeps whether the guest was brought to rest. With its memory it need not be.
func (a *attempt) note(o quiesce.Outcome, err error) {
	why := ""
	var failed *quiesce.Error
	switch {
	case errors.As(err, &failed):
		why = "the last snapshot failed: " + err.Error()
	case err == nil && a.memory == nil && a.policy.Mode == string(quiesce.ModeAgentOrCrash) && o.Consistency == quiesce.Crash:
		why = missedMode(a.policy.Mode, o.Warning)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.missed[a.vm.ID()] = why
	delete(a.silent, a.vm.ID())
}

func missedMode(mode, why string) string {
	return "the last snapshot missed mode " + mode + ": " + why
}

// missedBefore is what the newest snapshot says of itself, for a daemon that did not see it being taken.
func missedBefore(v *layer.VM) string {
	mode := v.Policy().Quiesce.Mode
	for _, n := range slices.Backward(v.Snapshots()) {
		info := n.Info()
		if info.Undo {
			continue
		}
		if mode == string(quiesce.ModeAgentOrCrash) && info.Consistency == layer.ConsistencyCrash && info.Memory == nil && info.Warning != nil {
			return missedMode(mode, *info.Warning)
		}
		break
	}
	return ""
}

// reasons are why a VM is not as its policy wants it, as far as its guest goes.
func (t *taker) reasons(v *layer.VM) []string {
	t.mu.Lock()
	missed, noted := t.missed[v.ID()]
	silent := t.silent[v.ID()]
	t.mu.Unlock()
	if !noted {
		missed = missedBefore(v)
	}
	held := ""
	if t.held.isReleasing(v.ID()) {
		held = "its guest may still be held still; letting go of it is tried again and again"
	}
	return slices.DeleteFunc([]string{held, silent, missed}, func(why string) bool { return why == "" })
}

// forget drops what was learned of a VM under another policy.
func (t *taker) forget(id layer.VMID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.missed[id] = ""
	delete(t.silent, id)
	delete(t.asked, id)
}
