package layer

// Merging lineages: one that is its parent's only continuation becomes part of it, so that what resolution costs does
// not grow with every revert that was ever made.
//
//	commit the lineage as merging, let readers look in both   crash: the start goes on
//	move its records, a region at a time, in chunks           crash: the same
//	commit its layers as the parent's                         crash: it is done

import (
	"errors"
	"math"
	"slices"

	"github.com/snapfs/snapfs/blockmap"
)

// mergeLayers is up to how many layers a lineage is merged: all records of a region move in one transaction.
const mergeLayers = 2000

// onlyContinuationLocked says whether n is all that goes on from its parent's newest layer.
func (t *tree) onlyContinuationLocked(n *lineage) bool {
	if n.parent == nil || len(n.layers) == 0 || len(n.layers) > mergeLayers || t.lineages[n.id] != n {
		return false
	}
	for _, l := range n.layers { // one merge of a chain at a time
		if slices.ContainsFunc(l.grown, func(g *lineage) bool { return g.into }) {
			return false
		}
	}
	top := n.parent.newest()
	return top != nil && top.id == n.branch && len(top.grown) == 1 && !n.parent.into
}

// mergesLocked are the lineages that can be merged now that a layer has left.
func (d *departure) mergesLocked(t *tree) []job {
	if d.below == nil {
		return nil
	}
	var jobs []job
	for _, n := range d.below.grown {
		if t.onlyContinuationLocked(n) {
			jobs = append(jobs, job{merge: n})
		}
	}
	return jobs
}

// recordToChange reads a layer's record of a region for an Update that will write it, and says under which lineage to
// put it. Where a merge is under way, the region moves first.
func (t *tree) recordToChange(tx *blockmap.Tx, l *layer, region uint64) (lineageID, blockmap.Record, error) {
	t.RLock()
	n := l.lineage
	in, from := n.id, lineageID(0)
	if n.moving {
		in, from = n.parent.id, n.id
	}
	t.RUnlock()
	if from != 0 {
		if err := moveRegion(tx, from, in, region); err != nil {
			return in, blockmap.Record{}, err
		}
	}
	r, err := tx.Record(in, region, l.id)
	return in, r, err
}

// recordLocked reads a layer's record of a region. The caller holds the tree.
func (l *layer) recordLocked(tx *blockmap.Tx, region uint64) (blockmap.Record, error) {
	n := l.lineage
	r, err := tx.Record(n.id, region, l.id)
	if err == nil && n.into && r.Empty() {
		return tx.Record(n.parent.id, region, l.id)
	}
	return r, err
}

// moveRegion moves all records of a region from one lineage to another.
func moveRegion(tx *blockmap.Tx, from, to lineageID, region uint64) error {
	type found struct {
		id LayerID
		r  blockmap.Record
	}
	var records []found
	err := tx.RegionRecords(from, region, math.MaxUint64, func(id LayerID, r *blockmap.Record) bool {
		records = append(records, found{id, *r})
		return true
	})
	for _, f := range records {
		tx.PutRecord(to, region, f.id, &f.r)
		tx.PutRecord(from, region, f.id, &blockmap.Record{})
	}
	return err
}

// merge makes n part of its parent.
func (r *reclaimer) merge(n *lineage) error {
	if ok, err := r.beginMerge(n); !ok || err != nil {
		return err
	}
	for !r.stopped() {
		done, err := r.moveRecords(n)
		if err != nil {
			return err
		}
		if done {
			return r.endMerge(n)
		}
	}
	return nil
}

// beginMerge lets all readers look in both lineages, waits for those who were loading with a chain of before, and commits
// that n is merging. No record moves before: a start that does not find the mark looks in the parent up to the branch
// only.
func (r *reclaimer) beginMerge(n *lineage) (bool, error) {
	s := r.store
	s.tree.Lock()
	begun, ok := n.into, s.tree.onlyContinuationLocked(n)
	if ok {
		n.into = true
	}
	s.tree.Unlock()
	if begun || !ok {
		return begun, nil
	}
	s.refreshChains()
	s.epochs.wait()
	err := s.updateFreeing(func(tx *blockmap.Tx) error {
		return editIfThere(tx, catalogKey(tableLineage, n.id), func(old *lineageRecord) { old.Into = true })
	})
	if err != nil {
		return false, err
	}
	s.tree.Lock()
	defer s.tree.Unlock()
	n.moving = true
	return true, nil
}

// refreshChains has every map in use look where the tree says now.
func (s *Store) refreshChains() {
	s.chains.Lock()
	defer s.chains.Unlock()
	s.files.Range(func(f *File) bool {
		st := f.state.Load()
		st.chain.SetChain(s.tree.chain(st.head))
		return true
	})
	s.views.Range(func(w *View) bool {
		if chain := w.chain.Load(); chain != nil {
			chain.SetChain(s.tree.chain(w.layer))
		}
		return true
	})
}

// moveRecords moves some regions, and says whether none is left.
func (r *reclaimer) moveRecords(n *lineage) (done bool, err error) {
	s := r.store
	s.tree.RLock()
	to := n.parent.id
	s.tree.RUnlock()
	err = s.updateFreeing(func(tx *blockmap.Tx) error {
		regions, err := firstRegions(tx, n.id, regionsAtOnce)
		if err != nil {
			return err
		}
		done = len(regions) == 0
		for _, region := range regions {
			if err := moveRegion(tx, n.id, to, region); err != nil {
				return err
			}
			if tx.Size() > s.index.MaxTx()/4 {
				break
			}
		}
		return nil
	})
	return done, err
}

// firstRegions lists up to max regions in which a lineage has records.
func firstRegions(tx *blockmap.Tx, n lineageID, max int) ([]uint64, error) {
	var regions []uint64
	err := tx.Records(n, func(region uint64, _ LayerID, _ *blockmap.Record) error {
		if len(regions) == 0 || regions[len(regions)-1] != region {
			if len(regions) == max {
				return errEnough
			}
			regions = append(regions, region)
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return regions, err
}

// endMerge makes the layers the parent's, in memory within the transaction: transactions run one after another, so that
// none that puts a layer or lineage over one of these names what is gone by its turn. If the commit fails, the index is
// dead anyway.
func (r *reclaimer) endMerge(n *lineage) error {
	t := r.store.tree
	return r.store.updateFreeing(func(tx *blockmap.Tx) error {
		t.Lock()
		defer t.Unlock()
		parent, layers := n.parent, n.layers
		if below := t.branchLocked(n); below != nil && !below.liveLocked() {
			r.add(job{layer: below, whole: true}) // it may have waited
		}
		for _, l := range layers {
			if err := editIfThere(tx, catalogKey(tableLayer, l.id), func(r *layerRecord) { r.Lineage = parent.id }); err != nil {
				return err
			}
			for _, g := range l.grown {
				if err := editIfThere(tx, catalogKey(tableLineage, g.id), func(r *lineageRecord) { r.Parent = parent.id }); err != nil {
					return err
				}
			}
		}
		tx.Delete(catalogKey(tableLineage, n.id))
		t.dropLineageLocked(n)
		for _, l := range layers {
			l.lineage = parent
			parent.layers = append(parent.layers, l)
			for _, g := range l.grown {
				g.parent = parent
			}
		}
		parent.cuts += n.cuts
		return nil
	})
}
