package layer

// Layers and lineages in memory: who lies over whom, and the chains that follow from it.

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/snapfs/snapfs/blockmap"
)

// noCut is the cut of a layer that never shrank.
const noCut = math.MaxUint64

// layer is what one file received between two snapshots.
type layer struct {
	id      LayerID
	file    FileID
	created int64
	lineage *lineage

	data    dataFile
	hasFile atomic.Bool  // the data file exists
	stray   bool         // it exists, and the index does not know: set while the store is opened
	logged  uint64       // where in the session log the index has got to: likewise
	blocks  atomic.Int64 // blocks of data held
	summed  atomic.Bool  // all of them have checksums
	lost    lostBlocks   // nil: nothing; set while the store is opened

	head atomic.Pointer[headState] // while it is written or sealed

	// Guarded by Store.tree.
	cut   uint64    // or noCut
	void  uint64    // or noCut
	snap  *Snapshot // that sealed it
	owner *File     // whose head it is
	grown []*lineage
}

// headState is what only a layer that is written needs.
type headState struct {
	dirty    blockmap.Dirty
	unsynced atomic.Int64 // bytes written since the last fdatasync began
	failed   atomic.Bool  // a flush failed: what it held may be lost, so no later one may succeed

	rounds    rounds
	flushing  sync.Mutex   // one flush at a time
	saved     fileMeta     // guarded by flushing: what the index has of the file
	recorded  bool         // guarded by flushing: the index knows of the data file
	logged    hold         // of what the session log has and the index has not
	gone      bool         // guarded by flushing: nothing is committed any more
	journaled bool         // guarded by flushing: the journal has blocks of it that the index may not know
	written   written      // since the last flush
	habit     atomic.Int32 // how many flushes in a row were of a few blocks: for early.go

	mu      sync.Mutex // guards what follows, and keeps changes to dirty in step with it
	counts  counts
	punch   map[uint64]*blockmap.Bitmap // by region: blocks given up since the last flush
	covered map[layerRegion]struct{}    // regions of layers below that lost a block to this head since then
}

// counts are by how many blocks what is dirty changes what the file shows as data, and what the layer holds.
type counts struct{ allocated, held int64 }

// change makes a change to what is dirty, with what it does to the counts.
func (w *headState) change(by counts, set func(*blockmap.Dirty)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set(&w.dirty)
	w.counts.add(by)
}

func (c *counts) add(by counts) {
	c.allocated += by.allocated
	c.held += by.held
}

type layerRegion struct {
	layer  *layer
	region uint64
}

func (l *layer) writer() *headState { return l.head.Load() }

// liveLocked says whether anybody reads the state that ends with l. The caller holds Store.tree.
func (l *layer) liveLocked() bool { return l.snap != nil || l.owner != nil }

// lineage is a straight run of layers.
type lineage struct {
	id     lineageID
	parent *lineage
	branch LayerID  // layers of parent up to this one lie below
	into   bool     // it is being merged into parent, and chains look in both: see merge.go
	moving bool     // that is committed, and records move
	layers []*layer // by rising id, guarded by Store.tree
	cuts   int      // layers that ever got a cut, guarded by Store.tree
}

// below is the id up to which the parent's records are those of layers below n. Records on their way from n to its
// parent are there under their own ids, up to top.
func (n *lineage) below(top LayerID) LayerID {
	if n.into {
		return top
	}
	return n.branch
}

// newest returns nil for an empty lineage.
func (n *lineage) newest() *layer {
	if len(n.layers) == 0 {
		return nil
	}
	return n.layers[len(n.layers)-1]
}

func (n *lineage) index(id LayerID) (int, bool) {
	return slices.BinarySearchFunc(n.layers, id, func(l *layer, id LayerID) int {
		switch {
		case l.id < id:
			return -1
		case l.id > id:
			return 1
		}
		return 0
	})
}

// tree is how the layers of a store hang together. Its mutex is never held across an index transaction: transactions
// take it.
type tree struct {
	sync.RWMutex
	lineages map[lineageID]*lineage
	layers   table[LayerID, layer] // read without the mutex
}

func newTree() *tree { return &tree{lineages: make(map[lineageID]*lineage)} }

// cutLocked lets nothing from block up show through l.
func (t *tree) cutLocked(l *layer, block uint64) {
	l.cut = min(l.cut, block)
	l.lineage.cuts++
}

func (t *tree) layer(id LayerID) *layer {
	return t.layers.Load(id)
}

// addLocked puts l on top of its lineage, of which it is the newest.
func (t *tree) addLocked(l *layer) {
	l.lineage.layers = append(l.lineage.layers, l)
	t.layers.Store(l.id, l)
}

// removeLocked takes out a layer. A lineage that loses its last one goes too.
func (t *tree) removeLocked(l *layer) {
	i, ok := l.lineage.index(l.id)
	if !ok {
		return
	}
	l.lineage.layers = slices.Delete(l.lineage.layers, i, i+1)
	t.layers.Delete(l.id)
	if len(l.lineage.layers) == 0 {
		t.dropLineageLocked(l.lineage)
	}
}

func (t *tree) dropLineageLocked(n *lineage) {
	delete(t.lineages, n.id)
	if below := t.branchLocked(n); below != nil {
		below.grown = slices.DeleteFunc(below.grown, func(g *lineage) bool { return g == n })
	}
}

// branchLocked is the layer that a lineage grew from, or nil.
func (t *tree) branchLocked(n *lineage) *layer {
	if n.parent == nil {
		return nil
	}
	i, ok := n.parent.index(n.branch)
	if !ok {
		return nil
	}
	return n.parent.layers[i]
}

// belowLocked is the layer under l, or nil.
func (t *tree) belowLocked(l *layer) *layer {
	i, ok := l.lineage.index(l.id)
	if ok && i > 0 {
		return l.lineage.layers[i-1]
	}
	return t.branchLocked(l.lineage)
}

// childrenLocked are the layers right over l: the next of its lineage, and the oldest of each that grew from it.
func (t *tree) childrenLocked(l *layer) []*layer {
	var children []*layer
	if i, ok := l.lineage.index(l.id); ok && i+1 < len(l.lineage.layers) {
		children = append(children, l.lineage.layers[i+1])
	}
	for _, n := range l.grown {
		if len(n.layers) > 0 {
			children = append(children, n.layers[0])
		}
	}
	return children
}

// chainLocked is what a reader of the state that ends with l sees through.
func (t *tree) chainLocked(l *layer) *blockmap.Chain {
	chain := &blockmap.Chain{}
	top := l.id
	for n := l.lineage; n != nil; n, top = n.parent, n.below(top) {
		chain.Segments = append(chain.Segments, blockmap.Segment{Lineage: n.id, Top: top})
		if n.cuts == 0 {
			continue
		}
		for i := len(n.layers) - 1; i >= 0; i-- {
			if c := n.layers[i]; c.id <= top && c.cut != noCut {
				chain.Cuts = append(chain.Cuts, blockmap.Cut{Layer: c.id, Block: c.cut})
				if c.void != noCut {
					chain.Cuts = append(chain.Cuts, blockmap.Cut{Layer: c.id, Block: c.void, Void: true})
				}
			}
		}
	}
	return chain
}

// chain is chainLocked for those who do not hold the tree.
func (t *tree) chain(l *layer) *blockmap.Chain {
	t.RLock()
	defer t.RUnlock()
	return t.chainLocked(l)
}

// chainBelow is what a reader would see without l, or nil if nothing lies under it.
func (t *tree) chainBelow(l *layer) *blockmap.Chain {
	t.RLock()
	defer t.RUnlock()
	if below := t.belowLocked(l); below != nil {
		return t.chainLocked(below)
	}
	return nil
}
