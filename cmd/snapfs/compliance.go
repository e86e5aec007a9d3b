package main

// What is not as its VM's policy wants it is looked after now and then, and told in the log too.

import (
	"context"
	"slices"
	"time"

	"github.com/snapfs/snapfs/layer"
)

// complianceEvery is how often VMs are looked at.
const complianceEvery = time.Minute

// compliance remembers what it told of which VM.
type compliance struct {
	store   *layer.Store
	event   func(vm, event string, attrs ...any)
	probe   func([]*layer.VM)
	reasons func(*layer.VM) []string // beside what package layer knows
	wake    chan struct{}
	told    map[layer.VMID][]string
}

func newCompliance(store *layer.Store, event func(vm, event string, attrs ...any), probe func([]*layer.VM), reasons func(*layer.VM) []string) *compliance {
	return &compliance{store: store, event: event, probe: probe, reasons: reasons, wake: make(chan struct{}, 1)}
}

// poke makes watch look now.
func (c *compliance) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// watch looks at all VMs until the context ends.
func (c *compliance) watch(ctx context.Context) {
	tick := time.NewTicker(complianceEvery)
	defer tick.Stop()
	for {
		c.look()
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-tick.C:
		}
	}
}

// look asks the guests, and tells each reason once for as long as it lasts.
func (c *compliance) look() {
	vms := c.store.VMs()
	c.probe(vms)
	now := make(map[layer.VMID][]string)
	for _, v := range vms {
		before, reasons := c.told[v.ID()], slices.Concat(v.OverAge(), c.reasons(v))
		for _, why := range reasons {
			if !slices.Contains(before, why) {
				c.event(v.Name(), "not-compliant", "reason", why)
			}
		}
		if len(reasons) > 0 {
			now[v.ID()] = reasons
		} else if len(before) > 0 {
			c.event(v.Name(), "compliant")
		}
	}
	c.told = now
}
