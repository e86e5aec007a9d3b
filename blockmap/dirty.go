package blockmap

// This file holds Dirty: the changes of one layer on their way into the index.

import "sync"

// Dirty holds the uncommitted deltas of one layer, by region, in two generations: what changes now, and what a flush took
// with Begin and has not ended. It is bounded only by what is not flushed. The zero value is empty and ready; all methods
// may be called at the same time.
type Dirty struct {
	mu         sync.Mutex // innermost: nothing else is locked under it
	current    Changes
	committing Changes
	begun      bool
}

// Changes are deltas by region.
type Changes map[uint64]sparse

// Delta is what changes in a region, and whether anything does.
func (c Changes) Delta(region uint64) (Delta, bool) {
	s, ok := c[region]
	return s.delta(), ok
}

// Set notes that blocks from up to, not including, to of a region are now of kind k.
func (d *Dirty) Set(region uint64, k Kind, from, to int) {
	if from >= to {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		d.current = make(Changes)
	}
	s := d.current[region]
	s.set(k, from, to)
	d.current[region] = s
}

// Delta returns a copy of all that is uncommitted in a region, and whether there is anything.
func (d *Dirty) Delta(region uint64) (Delta, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, ok := d.current[region]
	before, was := d.committing[region]
	switch {
	case !ok:
		return before.delta(), was
	case was:
		now.over(&before)
	}
	return now.delta(), true
}

// Held returns the blocks of a region that either generation has as data: one that is being committed as data counts, also
// if it has changed again since.
func (d *Dirty) Held(region uint64) (held Bitmap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, generation := range []Changes{d.current, d.committing} {
		if delta, ok := generation.Delta(region); ok {
			held.Or(&delta.Data)
		}
	}
	return held
}

// Begin takes what is dirty for a commit and returns it by region: exactly that is to be committed, and nobody changes it
// until End. Only one commit may be under way; a second Begin panics.
func (d *Dirty) Begin() Changes {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun {
		panic("blockmap: Begin of a Dirty that is being committed")
	}
	d.begun = true
	d.committing, d.current = d.current, nil
	return d.committing
}

// End ends the commit begun last. Committed, what it took is forgotten; otherwise it is dirty again, under what has changed
// since.
func (d *Dirty) End(committed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.begun {
		panic("blockmap: End of a Dirty without Begin")
	}
	if !committed {
		d.mergeBackLocked()
	}
	d.committing, d.begun = nil, false
}

func (d *Dirty) mergeBackLocked() {
	if d.current == nil {
		d.current = d.committing
		return
	}
	for region, before := range d.committing {
		if now, ok := d.current[region]; ok {
			now.over(&before)
			before = now
		}
		d.current[region] = before
	}
}

// Empty tells whether nothing is dirty and nothing is being committed.
func (d *Dirty) Empty() bool { return d.Regions() == 0 }

// Regions returns how many regions have something uncommitted; one that changed again during its commit counts once.
func (d *Dirty) Regions() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.current)
	for region := range d.committing {
		if _, ok := d.current[region]; !ok {
			n++
		}
	}
	return n
}
