package main

// What the daemon does with policies: it brings guests to rest for their snapshots, and takes snapshots on schedule.
// Package layer knows disks and no guests, package quiesce the reverse; here they meet.

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// keeper keeps the policies of a store's VMs for as long as it is served.
type keeper struct {
	held       *heldGuests
	taker      *taker
	schedule   *schedule
	compliance *compliance
	stop       context.CancelFunc
	work       sync.WaitGroup
}

// startKeeper first lets go of guests that an earlier daemon left held.
func startKeeper(store *layer.Store, events *fs.EventLog, mountpoint string) *keeper {
	ctx, stop := context.WithCancel(context.Background())
	held := &heldGuests{ctx: ctx, dir: filepath.Join(store.Dir(), "frozen"), store: store, event: events.Add, mountpoint: mountpoint}
	held.releaseAll()
	t := newTaker(ctx, held, events.Add, mountpoint)
	k := &keeper{
		held: held, taker: t, stop: stop,
		schedule: newSchedule(filepath.Join(store.Dir(), "schedule"), store, t.take, events.Add),
	}
	k.compliance = newCompliance(store, events.Add, t.probeAll, k.reasons)
	k.schedule.work.Go(func() { k.schedule.run(ctx) })
	k.work.Go(func() { k.compliance.watch(ctx) })
	return k
}

// reasons are why a VM is not as its policy wants it, beside what package layer knows.
func (k *keeper) reasons(v *layer.VM) []string {
	return append(k.taker.reasons(v), k.schedule.reasons(v)...)
}

// policyChanged makes a new policy take effect.
func (k *keeper) policyChanged(v *layer.VM) {
	k.taker.forget(v.ID())
	k.schedule.poke()
	k.compliance.poke()
}

// close ends what runs in the background. Guests that could not be let go of are tried again by the next daemon.
func (k *keeper) close() {
	k.stop()
	k.schedule.work.Wait()
	k.held.work.Wait()
	k.work.Wait()
}
