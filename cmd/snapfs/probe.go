package main

// Whether guests answer, asked now and then: status is to say so before a snapshot fails.

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

const (
	probeTime    = 2 * time.Second // what a guest has to answer in
	probesAtOnce = 10

	// probePause is between two questions to the same guest, even if policies change all the time. Where libvirt holds
	// it, each question takes a process.
	probePause   = complianceEvery / 2
	libvirtPause = 5 * time.Minute
)

// probeAll asks the guests of all VMs.
func (t *taker) probeAll(vms []*layer.VM) {
	slots := make(chan struct{}, probesAtOnce)
	var work sync.WaitGroup
	for _, v := range vms {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			t.probe(v)
		})
	}
	work.Wait()
}

// probe asks the guest of a VM that runs, if its policy needs that for snapshots.
func (t *taker) probe(v *layer.VM) {
	why, asked := "", false
	if p := v.Policy().Quiesce; p.Mode != string(quiesce.ModeNone) && v.InUse() && !t.held.isReleasing(v.ID()) {
		if !t.mayAsk(v.ID(), p) {
			return
		}
		asked = true
		err := t.reach(v.ID(), p)
		switch {
		case errors.Is(err, context.Canceled):
			return
		case err != nil:
			why = err.Error()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent[v.ID()] = why
	if !asked {
		delete(t.asked, v.ID()) // once it runs it is asked at once
	}
}

// mayAsk says whether it is time to ask a guest again.
func (t *taker) mayAsk(id layer.VMID, p layer.QuiescePolicy) bool {
	address, pause := p.Agent, probePause
	if p.Mode == string(quiesce.ModePause) {
		address = p.QMP
	}
	if strings.HasPrefix(address, "libvirt:") {
		pause = libvirtPause
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.asked[id]) < pause {
		return false
	}
	t.asked[id] = time.Now()
	return true
}

// reach is context.Canceled if a snapshot of the VM is being taken: that finds out more, and an agent talks to one at a
// time.
func (t *taker) reach(id layer.VMID, p layer.QuiescePolicy) error {
	ctx, cancel := context.WithTimeout(t.ctx, min(probeTime, p.MaxFrozen()))
	defer cancel()
	t.mu.Lock()
	t.probes[id] = cancel
	t.mu.Unlock()
	turn := t.turn(id)
	if !turn.TryLock() {
		return context.Canceled
	}
	defer turn.Unlock()
	err := quiesce.Reach(ctx, quiescePolicy(p))
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	return err
}

// endProbe lets a snapshot go first.
func (t *taker) endProbe(id layer.VMID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cancel := t.probes[id]; cancel != nil {
		cancel()
	}
}
