package blockmap

// This file says what a reader sees through, and resolves it: the pure rule that finds the owner of every block of a region.

import "math/bits"

// LayerID names a layer. 0 is no layer. Ids are never reused, and along any chain they strictly fall from newest to oldest.
type LayerID uint64

// LineageID names a straight run of layers.
type LineageID uint64

// Segment is the part of a lineage that is on a chain: its layers with ids up to Top.
type Segment struct {
	Lineage LineageID
	Top     LayerID
}

// Cut ends what shows through a layer, as a shrink of its file left it: from Block up, a block of the whole disk, nothing
// below Layer shows. Void: there the layer's own bits do not count either.
type Cut struct {
	Layer LayerID
	Block uint64
	Void  bool
}

// Chain is what a reader sees through, newest first. It is immutable.
type Chain struct {
	Segments []Segment
	Cuts     []Cut // by falling layer id
}

// LayerDelta is an uncommitted change of a layer in one region.
type LayerDelta struct {
	Layer LayerID
	Delta Delta
}

// Owners says for each block of a region which layer's file holds it; 0: none does, it reads as zeros.
type Owners [RegionBlocks]LayerID

// resolver finds the owners of one region's blocks. It is fed the records of the chain, newest first, and merges in what
// has no record of its own: cuts and uncommitted deltas.
type resolver struct {
	out     *Owners
	open    Bitmap // blocks not decided yet
	first   uint64 // first block of the region
	overlay []LayerDelta
	cuts    []Cut
}

func newResolver(region uint64, cuts []Cut, overlay []LayerDelta, out *Owners) *resolver {
	r := &resolver{out: out, first: region * RegionBlocks, overlay: overlay, cuts: cuts}
	r.open.SetRange(0, RegionBlocks)
	*out = Owners{}
	return r
}

// add takes the record of layer id, after all newer layers without one, and tells whether any block is still undecided.
func (r *resolver) add(id LayerID, rec *Record) (more bool) {
	for next := r.nextLayer(); next > id; next = r.nextLayer() {
		if !r.layer(next, &Record{}) {
			return false
		}
	}
	return r.layer(id, rec)
}

// finish takes the layers that are left when there is no further record.
func (r *resolver) finish() {
	for next := r.nextLayer(); next > 0 && r.layer(next, &Record{}); {
		next = r.nextLayer()
	}
}

// nextLayer returns the newest layer that has a delta or a cut not taken yet; 0 if there is none.
func (r *resolver) nextLayer() LayerID {
	var id LayerID
	if len(r.overlay) > 0 {
		id = r.overlay[0].Layer
	}
	if len(r.cuts) > 0 {
		id = max(id, r.cuts[0].Layer)
	}
	return id
}

// layer decides what layer id decides: its own bits, then its cuts. It may change rec.
func (r *resolver) layer(id LayerID, rec *Record) (more bool) {
	for len(r.overlay) > 0 && r.overlay[0].Layer == id {
		r.overlay[0].Delta.Apply(rec)
		r.overlay = r.overlay[1:]
	}
	below := RegionBlocks // from here up nothing below shows
	for len(r.cuts) > 0 && r.cuts[0].Layer == id {
		at := r.within(r.cuts[0].Block)
		if r.cuts[0].Void {
			rec.Data.ClearRange(at, RegionBlocks)
			rec.Zero.ClearRange(at, RegionBlocks)
		}
		below = min(below, at)
		r.cuts = r.cuts[1:]
	}
	r.take(id, rec)
	r.open.ClearRange(below, RegionBlocks)
	return !r.open.Empty()
}

// within returns where in this region a block of the disk lies: 0 if before it, RegionBlocks if behind.
func (r *resolver) within(block uint64) int {
	switch {
	case block <= r.first:
		return 0
	case block-r.first >= RegionBlocks:
		return RegionBlocks
	}
	return int(block - r.first)
}

// take gives layer id the undecided blocks it has data for; zero blocks are decided as nobody's.
func (r *resolver) take(id LayerID, rec *Record) {
	for w := range r.open {
		for mine := r.open[w] & rec.Data[w]; mine != 0; mine &= mine - 1 {
			r.out[w<<6+bits.TrailingZeros64(mine)] = id
		}
		r.open[w] &^= rec.Data[w] | rec.Zero[w]
	}
}
