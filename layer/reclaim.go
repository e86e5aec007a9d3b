package layer

// Reclaim: giving back, in the background, what of retired layers nobody sees any more.

import (
	"cmp"
	"slices"

	"github.com/snapfs/snapfs/blockmap"
)

func (r *reclaimer) do(j job) error {
	switch {
	case j.merge != nil:
		return r.merge(j.merge)
	case j.whole:
		return r.wholeLayer(j.layer)
	}
	if r.isLive(j.layer) {
		return nil
	}
	if gone, err := r.regions(j.layer, []uint64{j.region}); gone || err != nil {
		return err
	}
	return r.leaveIfEmpty(j.layer)
}

func (r *reclaimer) isLive(l *layer) bool {
	t := r.store.tree
	t.RLock()
	defer t.RUnlock()
	return l.liveLocked() || t.layer(l.id) != l
}

// resume queues what an earlier process did not finish: every retired layer, blocks to punch, files to remove.
func (r *reclaimer) resume(c *catalog) {
	s := r.store
	s.tree.RLock()
	var begun, jobs []job
	for _, n := range s.tree.lineages {
		for _, l := range n.layers {
			if !l.liveLocked() {
				jobs = append(jobs, job{layer: l, whole: true})
			}
		}
		switch {
		case n.into:
			begun = append(begun, job{merge: n})
		case s.tree.onlyContinuationLocked(n):
			jobs = append(jobs, job{merge: n})
		}
	}
	s.tree.RUnlock()
	r.add(append(begun, jobs...)...) // merges first: see leaveIfEmpty
	for _, p := range c.punches {
		l := s.tree.layer(p.layer)
		if l == nil {
			l = &layer{id: p.layer, lineage: &lineage{}} // it left; its file is about to go
		}
		r.pending.Add(int64(p.blocks.Count()) * blockSize)
		r.add(job{layer: l, region: p.region, punch: true})
	}
	for _, id := range c.unlinks {
		r.left = append(r.left, &layer{id: id})
	}
}

// flushed follows a flush that was committed: what it gave up is punched, what it covered looked at.
func (r *reclaimer) flushed(b *batch) {
	var jobs []job
	r.pending.Add(b.punched * blockSize)
	for region := range b.punch {
		jobs = append(jobs, job{layer: b.layer, region: region, punch: true})
	}
	for c := range b.covered {
		if !r.isLive(c.layer) {
			jobs = append(jobs, job{layer: c.layer, region: c.region})
		}
	}
	if len(jobs) > 0 {
		r.add(jobs...)
	}
}

// retire lets go of a head that nobody will read again.
func (s *Store) retire(l *layer) {
	s.tree.Lock()
	l.owner = nil
	s.tree.Unlock()
	s.reclaim.addRun(l)
}

// retireSnapshots lets go of the layers of snapshots that were deleted.
func (s *Store) retireSnapshots(gone []*Snapshot) {
	var layers []*layer
	s.tree.Lock()
	for _, n := range gone {
		for _, e := range n.Files {
			if l := s.tree.layer(e.Layer); l != nil && l.snap == n {
				l.snap = nil
				layers = append(layers, l)
			}
		}
	}
	s.tree.Unlock()
	s.reclaim.addRun(layers...)
}

// addRun queues retired layers and the runs of retired ones below them, which they were perhaps the only ones to read;
// the oldest first, so that those above find out that there is nothing below them any more.
func (r *reclaimer) addRun(layers ...*layer) {
	t := r.store.tree
	var jobs []job
	t.RLock()
	met := make(map[*layer]bool)
	for _, l := range layers {
		for ; l != nil && !l.liveLocked() && !met[l]; l = t.belowLocked(l) {
			met[l] = true
			jobs = append(jobs, job{layer: l, whole: true})
		}
	}
	t.RUnlock()
	slices.SortFunc(jobs, func(a, b job) int { return cmp.Compare(a.layer.id, b.layer.id) }) // ids rise along every chain
	r.add(jobs...)
}

const regionsAtOnce = 64 // of one transaction of the reclaimer

// wholeLayer looks through all regions of a retired layer.
func (r *reclaimer) wholeLayer(l *layer) error {
	if r.isLive(l) {
		return nil
	}
	for next := uint64(0); !r.stopped(); {
		regions, err := r.touched(l, next)
		if err != nil {
			return err
		}
		if len(regions) == 0 {
			return r.leaveIfEmpty(l)
		}
		if gone, err := r.regions(l, regions); gone || err != nil {
			return err
		}
		next = regions[len(regions)-1] + 1
	}
	return nil
}

func (r *reclaimer) touched(l *layer, first uint64) (regions []uint64, err error) {
	err = r.store.index.View(func(tx *blockmap.Tx) error {
		regions, err = touchedFrom(tx, l, first, regionsAtOnce)
		return err
	})
	return regions, err
}

// regions clears what is dead in some regions of a retired layer, and has it punched out. If nothing is left of the layer
// it leaves with that, and there is nothing to punch: its file goes.
func (r *reclaimer) regions(l *layer, regions []uint64) (gone bool, err error) {
	idle, err := r.idleZeros(l, regions)
	if err != nil {
		return false, err
	}
	if found, err := r.anyDead(l, regions, idle); !found || err != nil {
		return false, err
	}
	d := r.departure(l)
	var c cleared
	err = r.store.updateFreeing(func(tx *blockmap.Tx) (err error) {
		c, err = r.clearRegions(tx, l, regions, idle, d)
		return err
	})
	switch {
	case err != nil || c.blocks == 0 && !c.gone:
		return false, err
	case c.gone:
		r.show(d)
		return true, nil
	}
	l.blocks.Add(-c.blocks)
	r.pending.Add(c.recorded * blockSize)
	for _, region := range regions {
		r.add(job{layer: l, region: region, punch: true})
	}
	return false, nil
}

// cleared is what a transaction has cleared of a layer.
type cleared struct {
	blocks   int64 // dead ones that held data
	recorded int64 // those of them that were not to be punched before
	gone     bool  // nothing is left, and the layer has left
}

// clearRegions does so in a transaction. Without a departure, the layer stays.
func (r *reclaimer) clearRegions(tx *blockmap.Tx, l *layer, regions []uint64, idle []blockmap.Bitmap, d *departure) (c cleared, err error) {
	dead := make([]blockmap.Bitmap, len(regions))
	for i, region := range regions {
		if dead[i], err = r.clearDead(tx, l, region, &idle[i]); err != nil {
			return c, err
		}
		c.blocks += int64(dead[i].Count())
	}
	left, err := touchedFrom(tx, l, 0, 1)
	if err != nil {
		return c, err
	}
	if c.gone = len(left) == 0 && d != nil; c.gone {
		return c, d.commit(tx)
	}
	for i, region := range regions {
		if dead[i].Empty() {
			continue
		}
		added, err := putPunch(tx, l.id, region, &dead[i])
		if err != nil {
			return c, err
		}
		c.recorded += added
	}
	if c.blocks == 0 {
		return c, nil
	}
	return c, editIfThere(tx, catalogKey(tableLayer, l.id), func(rec *layerRecord) { rec.Blocks -= c.blocks })
}

// anyDead says whether there is anything to clear. Most looks at a layer find nothing, and need not wait for a commit; who
// commits what makes a block dead queues another one.
func (r *reclaimer) anyDead(l *layer, regions []uint64, idle []blockmap.Bitmap) (found bool, err error) {
	t := r.store.tree
	err = r.store.index.View(func(tx *blockmap.Tx) error {
		t.RLock()
		defer t.RUnlock()
		for i := 0; i < len(regions) && !found; i++ {
			rec, err := l.recordLocked(tx, regions[i])
			if err != nil {
				return err
			}
			kept, err := r.keptLocked(tx, l, regions[i], rec, &idle[i])
			if err != nil {
				return err
			}
			found = kept != rec
		}
		return nil
	})
	return found, err
}

// clearDead clears the bits of dead blocks, and returns those of them that held data.
func (r *reclaimer) clearDead(tx *blockmap.Tx, l *layer, region uint64, idleZeros *blockmap.Bitmap) (dead blockmap.Bitmap, err error) {
	t := r.store.tree
	in, rec, err := t.recordToChange(tx, l, region)
	if err != nil || rec.Empty() {
		return dead, err
	}
	t.RLock()
	kept, err := r.keptLocked(tx, l, region, rec, idleZeros)
	t.RUnlock()
	if err != nil {
		return dead, err
	}
	if kept != rec {
		putRecord(tx, in, l.id, region, false, &kept)
		l.keepLost(tx, region, &kept.Data)
	}
	dead = rec.Data
	dead.AndNot(&kept.Data)
	return dead, nil
}

// keptLocked is what somebody still needs of a retired layer's record.
func (r *reclaimer) keptLocked(tx *blockmap.Tx, l *layer, region uint64, rec blockmap.Record, idleZeros *blockmap.Bitmap) (kept blockmap.Record, err error) {
	needed, err := readers{tree: r.store.tree, tx: tx}.neededLocked(l, region, rec.Covered())
	if err != nil {
		return kept, err
	}
	kept = blockmap.Record{Data: rec.Data, Zero: rec.Zero}
	kept.Data.And(&needed)
	kept.Zero.And(&needed)
	kept.Zero.AndNot(idleZeros)
	return kept, nil
}

// idleZeros says, for each region, where a zero bit of l hides nothing: nothing below it has data. As what lies below
// is sealed, that stays so.
func (r *reclaimer) idleZeros(l *layer, regions []uint64) ([]blockmap.Bitmap, error) {
	idle := make([]blockmap.Bitmap, len(regions))
	below := r.store.tree.chainBelow(l)
	for i, region := range regions {
		var owners blockmap.Owners
		if below != nil {
			if err := r.store.index.Resolve(below, region, nil, &owners); err != nil {
				return nil, err
			}
		}
		for b, owner := range owners {
			if owner == 0 {
				idle[i].Set(b)
			}
		}
	}
	return idle, nil
}
