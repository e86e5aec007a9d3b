package layer

// Leaving: how a retired layer without bits goes.

import (
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/snapfs/snapfs/blockmap"
)

// leaveIfEmpty takes a retired layer without bits out of the catalog: those that grew from it grow from what is below
// it, and its cut becomes that of those over it. Then its file goes.
//
//	commit, with the file as one to remove     crash: the start removes it
//	wait for the epochs, close, unlink         crash: the same
//	sync layers/                               crash: the same
//	drop the record of it
//
// All but the first step is for many layers together: see settle.
func (r *reclaimer) leaveIfEmpty(l *layer) error {
	if left, err := r.touched(l, 0); err != nil || len(left) > 0 || r.isLive(l) {
		return err
	}
	d := r.departure(l)
	if d == nil {
		return nil
	}
	if err := r.store.updateFreeing(d.commit); err != nil {
		return err
	}
	r.show(d)
	return nil
}

// departure is how a retired layer would leave; nil if it may not yet.
func (r *reclaimer) departure(l *layer) *departure {
	t := r.store.tree
	t.RLock()
	defer t.RUnlock()
	d := t.departureLocked(l)
	if slices.ContainsFunc(d.grown, func(n *lineage) bool { return n.into }) {
		return nil // it is what a merge goes by, and leaves after that
	}
	return d
}

// show has a layer be gone that has left the catalog.
func (r *reclaimer) show(d *departure) {
	t := r.store.tree
	t.Lock()
	d.showLocked(t)
	jobs := d.mergesLocked(t)
	t.Unlock()
	r.add(jobs...)
	if d.layer.hasFile.Load() {
		r.left = append(r.left, d.layer)
	}
}

// unlinksAtOnce are under way at the same time: to free a file of many extents takes a file system a while, most of
// which it waits, for a discard of each if it is mounted so.
const unlinksAtOnce = 16

// removeFiles removes the data files of layers that left, and makes that durable.
func (r *reclaimer) removeFiles(left []*layer) error {
	s := r.store
	s.epochs.wait()
	var g errgroup.Group
	g.SetLimit(unlinksAtOnce)
	for _, l := range left {
		g.Go(func() error { return s.data.unlink(l) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.data.syncDir()
}

// departure is how the tree changes when a layer leaves.
type departure struct {
	layer    *layer
	below    *layer // nil: nothing
	children []*layer
	grown    []*lineage
	last     bool // of its lineage
}

func (t *tree) departureLocked(l *layer) *departure {
	return &departure{
		layer: l, below: t.belowLocked(l), children: t.childrenLocked(l), grown: append([]*lineage(nil), l.grown...),
		last: len(l.lineage.layers) == 1,
	}
}

// parent is what a lineage that grew from the layer grows from now.
func (d *departure) parent() lineageRecord {
	if d.below == nil {
		return lineageRecord{}
	}
	return lineageRecord{Parent: d.below.lineage.id, Branch: d.below.id}
}

func (d *departure) commit(tx *blockmap.Tx) error {
	l := d.layer
	for _, n := range d.grown {
		key := catalogKey(tableLineage, n.id)
		if value, err := tx.Get(key); err != nil {
			return err
		} else if value != nil { // an unlinked file's is not there
			put(tx, key, d.parent())
		}
	}
	if l.cut != noCut {
		for _, child := range d.children {
			err := editIfThere(tx, catalogKey(tableLayer, child.id), func(r *layerRecord) {
				if r.Cut == nil || l.cut < *r.Cut {
					r.Cut = &l.cut
				}
			})
			if err != nil {
				return err
			}
		}
	}
	tx.Delete(catalogKey(tableLayer, l.id))
	l.forgetLost(tx)
	if d.last {
		tx.Delete(catalogKey(tableLineage, l.lineage.id))
	}
	if l.hasFile.Load() {
		tx.Put(catalogKey(tableUnlink, l.id), nil)
	}
	return nil
}

func (d *departure) showLocked(t *tree) {
	l := d.layer
	for _, n := range d.grown {
		n.parent, n.branch = nil, 0
		if d.below != nil {
			n.parent, n.branch = d.below.lineage, d.below.id
			d.below.grown = append(d.below.grown, n)
		}
	}
	l.grown = nil
	if l.cut != noCut {
		for _, child := range d.children {
			t.cutLocked(child, l.cut)
		}
	}
	t.removeLocked(l)
}
