package layer

// Which blocks of a layer somebody sees who reads through the layers over it.

import "github.com/snapfs/snapfs/blockmap"

// readers are all those of a store: what a transaction sees, without those of one snapshot if that is given.
type readers struct {
	tree    *tree
	tx      *blockmap.Tx
	without *Snapshot
}

// liveLocked says whether one of them reads the state that ends with l.
func (r readers) liveLocked(l *layer) bool {
	return l.owner != nil || l.snap != nil && l.snap != r.without
}

// neededLocked says which of blocks some reader over l sees in l or below it. In an Update, it sees what is being
// committed.
func (r readers) neededLocked(l *layer, region uint64, blocks blockmap.Bitmap) (blockmap.Bitmap, error) {
	if run := r.runLocked(l); run != nil {
		return r.neededByRun(run, l, region, blocks)
	}
	var needed blockmap.Bitmap
	for _, child := range r.tree.childrenLocked(l) {
		seen := blocks
		rec, err := child.recordLocked(r.tx, region)
		if err != nil {
			return needed, err
		}
		covered := rec.Covered()
		seen.AndNot(&covered)
		if base := region * blockmap.RegionBlocks; child.cut < base+blockmap.RegionBlocks {
			seen.ClearRange(int(max(child.cut, base)-base), blockmap.RegionBlocks)
		}
		if !seen.Empty() && !r.liveLocked(child) {
			if seen, err = r.neededLocked(child, region, seen); err != nil {
				return needed, err
			}
		}
		needed.Or(&seen)
	}
	return needed, nil
}

// runLocked are the layers over l up to the first that is live, if they all stand in l's lineage and nothing else grows
// from l or any of them; nil otherwise. Of thousands of deleted snapshots nearly all layers stand like that.
func (r readers) runLocked(l *layer) []*layer {
	n := l.lineage
	i, ok := n.index(l.id)
	if !ok || n.into || len(l.grown) > 0 {
		return nil
	}
	for j, above := range n.layers[i+1:] {
		if r.liveLocked(above) {
			return n.layers[i+1 : i+1+j+1]
		}
		if len(above.grown) > 0 {
			return nil
		}
	}
	return nil
}

// neededByRun is neededLocked for a straight run: one scan of the records that there are, not a look-up for each layer.
func (r readers) neededByRun(run []*layer, l *layer, region uint64, blocks blockmap.Bitmap) (blockmap.Bitmap, error) {
	base := region * blockmap.RegionBlocks
	for _, above := range run {
		if above.cut < base+blockmap.RegionBlocks {
			blocks.ClearRange(int(max(above.cut, base)-base), blockmap.RegionBlocks)
		}
	}
	top := run[len(run)-1].id
	err := r.tx.RegionRecords(l.lineage.id, region, top, func(id LayerID, rec *blockmap.Record) bool {
		if id <= l.id {
			return false
		}
		covered := rec.Covered()
		blocks.AndNot(&covered)
		return !blocks.Empty()
	})
	return blocks, err
}
