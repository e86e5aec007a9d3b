package main

// Snapshots on schedule.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

const (
	// atOnce is how many VMs are snapshotted on schedule at a time.
	atOnce = 4

	// longestSleep bounds how long a clock that was set, or a host that slept, goes unnoticed.
	longestSleep = time.Minute

	// longestSetBack is by how much a clock may be set back without the last run being made again.
	longestSetBack = time.Hour
)

// schedule takes the snapshots that policies ask for. What it knows is in a file, so that a run that was missed while
// no daemon was there is made once, when there is one again.
type schedule struct {
	path  string
	store *layer.Store
	take  func(*layer.VM, fs.CreateRequest) (fs.Created, error)
	event func(vm, event string, attrs ...any)
	wake  chan struct{}
	slots chan struct{}
	work  sync.WaitGroup

	mu    sync.Mutex
	plans map[layer.VMID]*plan
}

type plan struct {
	layer.Plan
	running bool
}

func newSchedule(path string, store *layer.Store, take func(*layer.VM, fs.CreateRequest) (fs.Created, error), event func(vm, event string, attrs ...any)) *schedule {
	s := &schedule{
		path: path, store: store, take: take, event: event,
		wake: make(chan struct{}, 1), slots: make(chan struct{}, atOnce), plans: make(map[layer.VMID]*plan),
	}
	if err := s.load(); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.event("", "schedule-failed", "file", path, "error", err, "what", "all schedules count from now")
	}
	return s
}

func (s *schedule) load() error {
	text, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	plans, err := s.store.DecodeSchedule(text)
	for id, p := range plans {
		s.plans[id] = &plan{Plan: p}
	}
	return err
}

// poke makes run look at the policies again.
func (s *schedule) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run takes snapshots until the context ends.
func (s *schedule) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-time.After(s.tick(ctx, time.Now())):
		}
	}
}

// tick starts what is due, and returns for how long nothing else is.
func (s *schedule) tick(ctx context.Context, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.planLocked(now) {
		s.saveLocked()
	}
	sleep := longestSleep
	for id, p := range s.plans {
		v, err := s.store.VMByID(id)
		if err != nil || p.running {
			continue // a run that ends pokes
		}
		next := p.next()
		if next.After(now) {
			sleep = min(sleep, next.Sub(now))
			continue
		}
		p.running = true
		s.work.Go(func() { s.turn(ctx, v, p, now) })
	}
	return sleep
}

// planLocked brings the plans up to the policies, and says whether any changed.
func (s *schedule) planLocked(now time.Time) (changed bool) {
	wanted := make(map[layer.VMID]string)
	for _, v := range s.store.VMs() {
		if spec := v.Policy().Schedule; spec != "" {
			wanted[v.ID()] = spec
		}
	}
	for id, p := range s.plans {
		if wanted[id] != p.Schedule {
			delete(s.plans, id)
			changed = true
		}
	}
	for id, spec := range wanted {
		p := s.plans[id]
		switch {
		case p == nil:
			s.plans[id] = &plan{Plan: layer.Plan{Schedule: spec, Since: now}}
			changed = true
		case p.Since.Sub(now) > longestSetBack: // the clock was wrong, or the file is damaged: nothing would be made until then
			s.event("", "schedule-counts-anew", "schedule", spec, "since", p.Since.Format(time.RFC3339))
			p.Since, changed = now, true
		}
	}
	return changed
}

// next is when a snapshot is due, in local time; a time that never comes is far away.
func (p *plan) next() time.Time {
	never := p.Since.AddDate(100, 0, 0)
	spec, err := cron.ParseStandard(p.Schedule)
	if err != nil {
		return never // policies are checked
	}
	if next := spec.Next(p.Since.Local()); !next.IsZero() {
		return next
	}
	return never
}

// turn waits for its turn, takes a VM's snapshot and thins out the older ones. What the daemon's end or a crash keeps
// from being done, the next daemon does.
func (s *schedule) turn(ctx context.Context, v *layer.VM, p *plan, due time.Time) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	err := s.snapshot(v, due)
	<-s.slots
	if err != nil && ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.running, p.Since, p.Missed = false, due, ""
	if err != nil {
		p.Missed = fmt.Sprintf("the snapshot due at %s was not made: %v", due.Format(time.RFC3339), err)
	}
	s.saveLocked()
	s.poke()
}

// reasons are why a VM is not as its policy wants it, as far as its schedule goes.
func (s *schedule) reasons(v *layer.VM) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plans[v.ID()]; p != nil && p.Missed != "" && p.Schedule == v.Policy().Schedule {
		return []string{p.Missed}
	}
	return nil
}

// snapshot takes one; nil if it is there.
func (s *schedule) snapshot(v *layer.VM, due time.Time) error {
	r := fs.CreateRequest{CreateOptions: layer.CreateOptions{Name: autoName(v, due), Description: "on schedule", Auto: true}}
	info, err := s.take(v, r)
	switch {
	case errors.Is(err, syscall.EBUSY):
		s.event(v.Name(), "schedule-skipped", "error", err) // a preview
		return err
	case err != nil:
		s.event(v.Name(), "schedule-failed", "snapshot", r.Name, "error", err)
		return err
	}
	attrs := []any{"snapshot", info.Name, "consistency", info.Consistency}
	if info.Warning != nil {
		attrs = append(attrs, "warning", *info.Warning)
	}
	s.event(v.Name(), "scheduled", attrs...)
	gone, err := v.ThinAuto()
	if len(gone) > 0 {
		s.event(v.Name(), "thinned", "snapshots", strings.Join(gone, ","))
	}
	if err != nil {
		s.event(v.Name(), "thin-failed", "error", err)
	}
	return nil
}

// autoName is what the snapshot of this moment is called.
func autoName(v *layer.VM, at time.Time) string {
	base := "auto-" + at.UTC().Format("20060102T150405Z")
	name := base
	for i := 2; ; i++ {
		if _, err := v.Snapshot(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, i)
	}
}

// saveLocked writes the plans down. If it can't, runs that are missed later may not be made up for, no more.
func (s *schedule) saveLocked() {
	plans := make(map[layer.VMID]layer.Plan)
	for id, p := range s.plans {
		plans[id] = p.Plan
	}
	text, err := s.store.EncodeSchedule(plans)
	if err == nil {
		err = writeDurably(s.path, text)
	}
	if err != nil {
		s.event("", "schedule-failed", "error", err)
	}
}
