package main

// What is not as its VM's policy wants it, and comes about by time alone, is told in the log too.

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
	store *layer.Store
	event func(vm, event string, attrs ...any)
	told  map[layer.VMID][]string
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
		case <-tick.C:
		}
	}
}

// look tells each reason once for as long as it lasts.
func (c *compliance) look() {
	now := make(map[layer.VMID][]string)
	for _, v := range c.store.VMs() {
		if v.Policy().Limit.Age == "0" {
			continue // nothing else comes with time
		}
		reasons := v.Status().Reasons
		now[v.ID()] = reasons
		for _, why := range reasons {
			if !slices.Contains(c.told[v.ID()], why) {
				c.event(v.Name(), "not-compliant", "reason", why)
			}
		}
	}
	c.told = now
}
