package blockmap

// This file holds Dirty: the changes of one layer on their way into the index.

import "sync"

// Dirty holds the uncommitted deltas of one layer, by region, in two generations: what changes now, and what a flush took
// with Begin and has not ended. It is bounded only by what is not flushed. The zero value is empty and ready; all methods
// may be called at the same time.
type Dirty struct {
	mu         sync.Mutex // innermost: nothing else is locked under it
	current    map[uint64]*Delta
	committing map[uint64]*Delta
	begun      bool
}

// Set notes that blocks from up to, not including, to of a region are now of kind k.
func (d *Dirty) Set(region uint64, k Kind, from, to int) {
	if from >= to {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delta := d.current[region]
	if delta == nil {
		if d.current == nil {
			d.current = make(map[uint64]*Delta)
		}
		delta = new(Delta)
		d.current[region] = delta
	}
	delta.Set(k, from, to)
}

// Delta returns a copy of all that is uncommitted in a region, and whether there is anything.
func (d *Dirty) Delta(region uint64) (Delta, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, before := d.current[region], d.committing[region]
	switch {
	case now == nil && before == nil:
		return Delta{}, false
	case now == nil:
		return *before, true
	}
	sum := *now
	if before != nil {
		sum.Over(before)
	}
	return sum, true
}

// Held returns the blocks of a region that either generation has as data: one that is being committed as data counts, also
// if it has changed again since.
func (d *Dirty) Held(region uint64) (held Bitmap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, generation := range []map[uint64]*Delta{d.current, d.committing} {
		if delta := generation[region]; delta != nil {
			held.Or(&delta.Data)
		}
	}
	return held
}

// Begin takes what is dirty for a commit and returns it by region: exactly that is to be committed, and nobody changes it
// until End. Only one commit may be under way; a second Begin panics.
func (d *Dirty) Begin() map[uint64]*Delta {
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
		if now := d.current[region]; now != nil {
			now.Over(before)
		} else {
			d.current[region] = before
		}
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
		if d.current[region] == nil {
			n++
		}
	}
	return n
}
