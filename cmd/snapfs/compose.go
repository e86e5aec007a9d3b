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
	held     *heldGuests
	taker    *taker
	schedule *schedule
	stop     context.CancelFunc
	work     sync.WaitGroup
}

// startKeeper first lets go of guests that an earlier daemon left held.
func startKeeper(store *layer.Store, events *fs.EventLog, mountpoint string) *keeper {
	ctx, stop := context.WithCancel(context.Background())
	held := &heldGuests{ctx: ctx, dir: filepath.Join(store.Dir(), "frozen"), store: store, event: events.Add}
	held.releaseAll()
	t := &taker{ctx: ctx, held: held, event: events.Add, mountpoint: mountpoint}
	k := &keeper{
		held: held, taker: t, stop: stop,
		schedule: newSchedule(filepath.Join(store.Dir(), "schedule"), store, t.take, events.Add),
	}
	k.schedule.work.Go(func() { k.schedule.run(ctx) })
	k.work.Go(func() { (&compliance{store: store, event: events.Add}).watch(ctx) })
	return k
}

// policyChanged makes a new policy take effect.
func (k *keeper) policyChanged(v *layer.VM) {
	k.taker.forget(v.ID())
	k.schedule.poke()
}

// close ends what runs in the background. Guests that could not be let go of are tried again by the next daemon.
func (k *keeper) close() {
	k.stop()
	k.schedule.work.Wait()
	k.held.work.Wait()
	k.work.Wait()
}
