package layer

// New heads: the one primitive behind every state of a VM. New, empty heads go over some layers, at one instant: over
// the present heads for a snapshot, over a snapshot's layers for a revert.

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// newHead is a head that is being made.
type newHead struct {
	file  *File  // nil: one that the VM does not have at present
	id    FileID // of the file
	over  *layer // what it goes over
	apart bool   // over another VM's layer: all layers of a lineage are of one VM
	head  *layer
	grew  bool // it starts a lineage
	made  bool // it has a data file, whose name is durable
}

// heads are those of one operation.
type heads struct {
	vm    *VM
	snap  *Snapshot // that leaves the old heads behind, if guests go on with the new ones before it is committed
	new   []newHead
	about []byte    // the machine's description, for snap
	by    []Request // who asked for snap
}

func (s *Store) newLayer(file FileID, n *lineage) *layer {
	return &layer{id: LayerID(s.newID()), file: file, lineage: n, created: time.Now().UnixNano(), cut: noCut, void: noCut}
}

// record is the catalog's of a layer that was just made.
func (l *layer) record() layerRecord {
	return layerRecord{Lineage: l.lineage.id, File: l.file, Created: l.created}
}

// prepare puts new heads into the tree and commits them as prepared: a start that finds them takes them away again.
//
// A head over the newest layer of a lineage continues it. Otherwise it starts one.
func (h *heads) prepare() error {
	h.place()
	err := h.vm.store.update(func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tablePrepared, h.vm.id), h.prepared())
		if h.about != nil {
			tx.Put(catalogKey(tableMachine, h.snap.id), h.about)
		}
		return h.put(tx)
	})
	if err != nil {
		h.removeFromTree()
	}
	return err
}

// makeFiles makes data files for prepared heads of files that were written since they got their present ones. The first
// write after the instant would wait for it, milliseconds now and then, and the first flush have it to commit.
func (h *heads) makeFiles() error {
	s, made := h.vm.store, false
	for i := range h.new {
		n := &h.new[i]
		if n.over.blocks.Load() == 0 {
			continue
		}
		if err := s.data.make(n.head); err != nil {
			return err
		}
		n.made, made = true, true
	}
	if !made {
		return nil
	}
	return s.data.syncDir() // before the records that count on them
}

// recorded notes that the index knows of the data files that were made. No flush is under way.
func (h *heads) recorded() {
	for _, n := range h.new {
		if w := n.head.writer(); w != nil && n.made {
			w.flushing.Lock()
			w.recorded = true
			w.flushing.Unlock()
		}
	}
}

// removeFiles removes the heads' data files, which have nothing in them, and returns the heads that have none now.
func (h *heads) removeFiles() (removed []LayerID) {
	for _, n := range h.new {
		if !n.head.hasFile.Load() || h.vm.store.data.unlink(n.head) == nil {
			removed = append(removed, n.head.id)
		}
	}
	return removed
}

// place puts the heads into the tree.
func (h *heads) place() {
	t := h.vm.store.tree
	t.Lock()
	defer t.Unlock()
	for i := range h.new {
		h.placeLocked(&h.new[i])
	}
}

// put writes the heads' layers and the lineages that they start.
func (h *heads) put(tx *blockmap.Tx) error {
	for _, n := range h.new {
		put(tx, catalogKey(tableLayer, n.head.id), n.head.record())
		if n.grew {
			put(tx, catalogKey(tableLineage, n.head.lineage.id), lineageRecord{Parent: n.over.lineage.id, Branch: n.over.id})
		}
	}
	return h.vm.store.putNext(tx)
}

// placeLocked makes one head. Until it has an owner it counts as live for what it lies over: its children are looked
// at only once that is retired, which waits for the operation.
func (h *heads) placeLocked(n *newHead) {
	s := h.vm.store
	lin := n.over.lineage
	if n.apart || lin.newest() != n.over || slices.ContainsFunc(n.over.grown, func(g *lineage) bool { return g.into }) {
		lin = &lineage{id: lineageID(s.newID()), parent: n.over.lineage, branch: n.over.id}
		s.tree.lineages[lin.id] = lin
		n.over.grown = append(n.over.grown, lin)
		n.grew = true
	}
	n.head = s.newLayer(n.id, lin)
	s.tree.addLocked(n.head)
}

func (h *heads) prepared() preparedRecord {
	p := preparedRecord{}
	if h.snap != nil {
		p.ID, p.Snapshot = h.snap.id, &h.snap.snapshotRecord
	}
	if len(h.by) > 0 {
		p.By = &h.by[0]
	}
	for _, n := range h.new {
		p.Layers = append(p.Layers, n.head.id)
		if n.grew {
			p.Lineages = append(p.Lineages, n.head.lineage.id)
		}
	}
	return p
}

func (h *heads) removeFromTree() {
	t := h.vm.store.tree
	t.Lock()
	defer t.Unlock()
	for _, n := range slices.Backward(h.new) {
		t.removeLocked(n.head)
	}
}

// undo takes prepared heads away that were never shown.
//
//	commit that they are gone, and their files to be removed    crash: the start removes them
//	remove the files                                            crash: the same
//	commit that there is nothing to be removed                  nothing is left
func (h *heads) undo() {
	s := h.vm.store
	err := s.updateFreeing(func(tx *blockmap.Tx) error {
		tx.Delete(catalogKey(tablePrepared, h.vm.id))
		dropPrepared(tx, h.prepared())
		return nil
	})
	if err != nil {
		return
	}
	removed := h.removeFiles()
	h.removeFromTree()
	_ = s.updateFreeing(func(tx *blockmap.Tx) error { // or the next start does it
		for _, id := range removed {
			tx.Delete(catalogKey(tableUnlink, id))
		}
		return nil
	})
}

// left is what a swap left behind: the old head of a file, and the file as it was at that instant.
type left struct {
	file *File
	name string
	head *layer
	attr attrRecord
	meta fileMeta
}

// leave notes what a file is at this instant. The VM's barrier is held.
func (f *File) leave() left {
	f.mu.Lock()
	defer f.mu.Unlock()
	attr := f.attr
	attr.Mtime = f.mtime.Load()
	return left{file: f, name: f.name, head: f.state.Load().head, attr: attr, meta: f.meta()}
}

// entry is how a snapshot lists what was left.
func (o left) entry() entryRecord {
	return entryRecord{
		File: o.file.id, Name: o.name, Layer: o.head.id, Attr: o.attr, Size: o.meta.size, Allocated: o.meta.allocated,
	}
}

// seal makes durable what old heads hold; all of them at once, for each waits for the disk. What they still had
// uncommitted is committed with it.
func seal(old []left) error {
	errs := make([]error, len(old))
	var wg sync.WaitGroup
	for i, o := range old {
		wg.Go(func() { errs[i] = o.file.flushSealed(o) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// flushSealed flushes a layer that is no longer the file's head, with the size of when it was.
func (f *File) flushSealed(o left) error {
	w := o.head.writer()
	w.flushing.Lock()
	defer w.flushing.Unlock()
	return f.flushWith(o.head, w, func() fileMeta { return o.meta }, false)
}

// sealed lets go of what only a head needs, once the index has all of it.
func (o left) sealed() {
	st := o.file.state.Load()
	unsaved := *st.chain.unsaved.Load()
	kept := make([]*layer, 0, len(unsaved))
	for _, l := range unsaved {
		if l != o.head {
			kept = append(kept, l)
		}
	}
	st.chain.unsaved.Store(&kept)
	o.head.endHead(o.file.vm)
}
