package layer

// Revert: back to a snapshot, by new heads over its layers. Newer snapshots stay: a tree, not a line.

import (
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// keepUndo is how many of the snapshots that reverts kept stay.
const keepUndo = 3

// Revert makes the VM's files exactly the snapshot's: newer ones go, renamed and unlinked ones return, those that the
// snapshot left out stay. What is left behind is kept as before-revert-… unless discarded. EBUSY while a file of the VM
// is open for writing, unless forced: then open handles read the new state, and the guest must be reset.
//
//	flush all, commit new heads as prepared       crash: the start undoes the heads
//	within the barrier, flush what is kept        crash: the same
//	commit files, heads and the kept snapshot     crash: all of it is there
//	show it                                       nothing is on disk that was not before
func (v *VM) Revert(o RevertOptions) (RevertResult, error) {
	v.op.Lock()
	defer v.op.Unlock()
	n, err := v.Snapshot(o.Name)
	if err != nil {
		return RevertResult{}, err
	}
	entries, err := n.selectEntries(o.Files)
	if err != nil {
		return RevertResult{}, err
	}
	affected := v.affected(n, entries, o.Files == nil)
	running := v.openForWriting(affected)
	if running && !o.Force {
		idle := v.awaitHandles(func() bool { return v.openForWriting(affected) })
		if !idle {
			return RevertResult{}, Errorf(syscall.EBUSY, "a file of VM %q is open for writing: stop the VM first, or force it and reset the guest", v.Name())
		}
		running = false
	}
	r := &revert{vm: v, to: n, entries: entries, affected: affected, discard: o.Discard}
	if err := r.run(); err != nil {
		return RevertResult{}, err
	}
	return RevertResult{Snapshot: n.Info(), Kept: r.keptName(), Reset: running}, nil
}

// selectEntries are the snapshot's files with the given names, or all.
func (n *Snapshot) selectEntries(names []string) ([]entryRecord, error) {
	if names == nil {
		return n.Files, nil
	}
	var entries []entryRecord
	for _, name := range names {
		i := slices.IndexFunc(n.Files, func(e entryRecord) bool { return e.Name == name })
		if i < 0 {
			return nil, Errorf(syscall.ENOENT, "snapshot %q has no file %q", n.Name(), name)
		}
		entries = append(entries, n.Files[i])
	}
	return entries, nil
}

// affected are the VM's present files that a revert replaces or takes away: those whose id or name the snapshot has,
// and with whole the newer ones too. What the snapshot left out stays.
func (v *VM) affected(n *Snapshot, entries []entryRecord, whole bool) []*File {
	byID, byName := make(map[FileID]bool), make(map[string]bool)
	for _, e := range entries {
		byID[e.File], byName[e.Name] = true, true
	}
	var files []*File
	for _, e := range v.Files() {
		excluded := slices.Contains(n.Excluded, e.Name) || slices.Contains(n.ExcludedIDs, e.File.id)
		if byID[e.File.id] || byName[e.Name] || whole && !excluded {
			files = append(files, e.File)
		}
	}
	return files
}

func (v *VM) openForWriting(files []*File) bool {
	return slices.ContainsFunc(files, func(f *File) bool { return f.openFor(true) })
}

// revert is one that is under way.
type revert struct {
	vm       *VM
	to       *Snapshot
	entries  []entryRecord
	affected []*File
	discard  bool

	heads   *heads
	kept    *Snapshot // what is left behind
	old     []left
	orphans map[*File]*layer // heads for files that go and may be open, if their own are kept
}

func (r *revert) keptName() string {
	if r.kept == nil {
		return ""
	}
	return r.kept.Name()
}

func (r *revert) run() error {
	v, s := r.vm, r.vm.store
	for _, f := range r.affected {
		f.awaitVoid()
		if err := f.Flush(true); err != nil && !r.discard {
			return err
		}
	}
	r.heads = &heads{vm: v}
	for _, e := range r.entries {
		r.heads.new = append(r.heads.new, newHead{over: s.tree.layer(e.Layer)})
	}
	if err := r.heads.prepare(); err != nil {
		return err
	}
	if err := r.switchOver(); err != nil {
		r.heads.undo()
		return err
	}
	v.thinUndo(r.to)
	return nil
}

// switchOver commits the new state and shows it; nobody changes a file of the VM meanwhile.
func (r *revert) switchOver() error {
	v := r.vm
	v.sealing.Lock()
	defer v.sealing.Unlock()
	v.barrier.Lock()
	defer v.barrier.Unlock()
	for _, f := range r.affected {
		r.old = append(r.old, f.leave())
	}
	if !r.discard {
		r.keep()
		if err := seal(r.old); err != nil {
			return err
		}
	}
	if err := v.store.update(r.commit); err != nil {
		return err
	}
	r.show()
	return nil
}

// keep makes the snapshot of what is left behind.
func (r *revert) keep() {
	v, now := r.vm, time.Now()
	name := v.undoName("before-revert-", now)
	r.kept = v.newSnapshot(CreateOptions{Name: name, Description: "what a revert to " + r.to.Name() + " left behind"})
	r.kept.Undo = true
	r.kept.snapshotRecord.Created = now.UnixNano()
	if v.openForWriting(r.affected) {
		r.kept.Consistency = ConsistencyCrash
	}
	for _, e := range v.Files() {
		if !slices.Contains(r.affected, e.File) {
			r.kept.Excluded = append(r.kept.Excluded, e.Name)
			r.kept.ExcludedIDs = append(r.kept.ExcludedIDs, e.File.id)
		}
	}
	r.orphans = make(map[*File]*layer)
	for _, o := range r.old {
		r.kept.Files = append(r.kept.Files, o.entry())
		if !slices.ContainsFunc(r.entries, func(e entryRecord) bool { return e.File == o.file.id }) {
			lin := &lineage{id: lineageID(v.store.newID()), parent: o.head.lineage, branch: o.head.id}
			r.orphans[o.file] = v.store.newLayer(o.file.id, lin)
		}
	}
}

func (r *revert) commit(tx *blockmap.Tx) error {
	v := r.vm
	tx.Delete(catalogKey(tablePrepared, v.id))
	if r.kept != nil {
		put(tx, catalogKey(tableSnapshot, r.kept.id), r.kept.snapshotRecord)
	}
	for _, o := range r.old {
		tx.Delete(catalogKey(tableFile, o.file.id))
	}
	for _, head := range r.orphans {
		// The catalog does not know them: a start removes what is left of them.
		tx.Put(catalogKey(tableUnlink, head.id), nil)
	}
	for i, e := range r.entries {
		put(tx, catalogKey(tableFile, e.File), r.fileRecord(i))
	}
	if err := v.store.putNext(tx); err != nil {
		return err
	}
	return edit(tx, catalogKey(tableVM, v.id), func(rec *vmRecord) { rec.Head = r.to.id })
}

func (r *revert) fileRecord(i int) fileRecord {
	e := r.entries[i]
	return fileRecord{
		VM: r.vm.id, Name: e.Name, Attr: e.Attr, Size: e.Size, Allocated: e.Allocated, Head: r.heads.new[i].head.id,
	}
}

// show is commit's work in memory. A file keeps its identity, so that open handles follow it to the new state, and one
// that was unlinked and is still open returns.
func (r *revert) show() {
	v, s := r.vm, r.vm.store
	for _, o := range r.old {
		v.mu.Lock()
		delete(v.files, o.name)
		v.mu.Unlock()
	}
	for i := range r.entries {
		r.showFile(i)
	}
	s.tree.Lock()
	for _, o := range r.old {
		if o.head.owner == o.file && o.file.state.Load().head != o.head {
			o.head.owner = nil
		}
		if r.kept != nil {
			o.head.snap = r.kept
		}
	}
	s.tree.Unlock()
	if r.kept != nil {
		r.kept.state = StateReady
		v.addSnapshot(r.kept)
	}
	v.mu.Lock()
	v.head = r.to.id
	v.mu.Unlock()
	r.letGo()
}

// showFile puts the i-th file of the snapshot into the VM.
func (r *revert) showFile(i int) {
	v, s, e := r.vm, r.vm.store, r.entries[i]
	record, head := r.fileRecord(i), r.heads.new[i].head
	var f *File
	if known, ok := s.files.Load(e.File); ok {
		f = known.(*File)
		f.mu.Lock()
		f.name, f.attr, f.linked = record.Name, record.Attr, true
		f.mu.Unlock()
		f.size.Store(record.Size)
		f.allocated.Store(record.Allocated)
		f.mtime.Store(record.Attr.Mtime)
		before := f.state.Load()
		f.setHead(head, nil)
		r.replaced(f, before)
	} else {
		f = newFile(v, e.File, record)
		f.setHead(head, nil)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.files[record.Name] = f
}

// replaced lets go of the state that a file had. One that was unlinked, so that no snapshot has it, is retired.
func (r *revert) replaced(f *File, before *fileState) {
	before.chain.Close()
	if !slices.ContainsFunc(r.old, func(o left) bool { return o.file == f }) {
		before.head.stopFlushing()
		f.vm.store.retire(before.head)
	}
}

// letGo ends the old heads, and the files that are no longer there.
func (r *revert) letGo() {
	s := r.vm.store
	for _, o := range r.old {
		if o.file.state.Load().head == o.head {
			r.goneFile(o)
			continue
		}
		if r.kept != nil {
			o.head.head.Store(nil)
		} else {
			o.head.stopFlushing()
			s.retire(o.head)
		}
	}
}

// goneFile ends a file that the snapshot does not have. While it is open it lives on: over a head of its own if its
// old one was kept.
func (r *revert) goneFile(o left) {
	s := r.vm.store
	o.file.mu.Lock()
	o.file.linked = false
	open := len(o.file.handles) > 0
	o.file.mu.Unlock()
	if open && r.kept == nil {
		return // its last close retires the head
	}
	if open {
		r.orphanHead(o)
		return
	}
	s.files.Delete(o.file.id)
	o.file.state.Load().chain.Close()
	if r.kept != nil {
		o.head.head.Store(nil)
		s.tree.Lock()
		o.head.owner = nil
		s.tree.Unlock()
		return
	}
	o.head.stopFlushing()
	s.retire(o.head)
}

// orphanHead gives an unlinked file that is still open a head that the catalog does not know: it goes with the file's
// last close, or with the process.
func (r *revert) orphanHead(o left) {
	s, head := r.vm.store, r.orphans[o.file]
	s.tree.Lock()
	s.tree.lineages[head.lineage.id] = head.lineage
	o.head.grown = append(o.head.grown, head.lineage)
	s.tree.addLocked(head)
	o.head.owner = nil
	s.tree.Unlock()
	before := o.file.state.Load()
	o.file.setHead(head, nil)
	before.chain.Close()
	o.head.head.Store(nil)
}

// thinUndo deletes the oldest of what reverts kept, but for the newest few, those in use, and to, which the VM was
// reverted to.
func (v *VM) thinUndo(to *Snapshot) {
	var kept []*Snapshot
	for _, n := range v.Snapshots() {
		if n.Undo && n != to {
			kept = append(kept, n)
		}
	}
	for len(kept) > keepUndo {
		n := kept[0]
		kept = kept[1:]
		if n.tryRefuseOpens() {
			if err := v.dropSnapshots([]*Snapshot{n}); err != nil {
				v.allowOpens([]*Snapshot{n})
			}
		}
	}
}
