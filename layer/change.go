package layer

// Changing to a snapshot's state: what revert, preview and undo have in common.
//
//	flush all, commit new heads as prepared          crash: the start undoes the heads
//	while nobody writes, flush what is to be kept    crash: the same
//	commit files, heads, and the kept snapshot       crash: all of it is there
//	show it                                          nothing is on disk that was not before

import (
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// selectEntries are the snapshot's files with the given names, or all but those that the policy excludes now.
func (n *Snapshot) selectEntries(names []string) ([]entryRecord, error) {
	for _, name := range names {
		if !slices.ContainsFunc(n.Files, func(e entryRecord) bool { return e.Name == name }) {
			return nil, Errorf(syscall.ENOENT, "snapshot %q has no file %q", n.Name(), name)
		}
	}
	var entries []entryRecord
	for _, e := range n.Files {
		named := slices.Contains(names, e.Name)
		switch {
		case names != nil && !named:
		case !n.vm.excludes(e):
			entries = append(entries, e)
		case named:
			return nil, Errorf(syscall.EINVAL, "file %q is excluded by the policy of VM %q", e.Name, n.vm.Name())
		}
	}
	return entries, nil
}

// excludes says whether the policy keeps a snapshot's file from coming back, by its name then or now.
func (v *VM) excludes(e entryRecord) bool {
	names := []string{e.Name}
	if f, err := v.store.FileByID(e.File); err == nil {
		names = append(names, f.Name())
	}
	exclude := v.Policy().Exclude
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(exclude, name) })
}

// affected are the VM's present files that a revert replaces or takes away: those whose id or name the snapshot has,
// and with whole the newer ones too. What the snapshot left out stays, and so does what the policy excludes now.
func (v *VM) affected(n *Snapshot, entries []entryRecord, whole bool) []*File {
	byID, byName := make(map[FileID]bool), make(map[string]bool)
	for _, e := range entries {
		byID[e.File], byName[e.Name] = true, true
	}
	policy := v.Policy()
	var files []*File
	for _, e := range v.Files() {
		if slices.Contains(policy.Exclude, e.Name) {
			continue
		}
		excluded := slices.Contains(n.Excluded, e.Name) || slices.Contains(n.ExcludedIDs, e.File.id)
		if byID[e.File.id] || byName[e.Name] || whole && !excluded {
			files = append(files, e.File)
		}
	}
	return files
}

// change is one that is under way: of a VM from what it is to what a snapshot has.
type change struct {
	vm       *VM
	to       *Snapshot
	entries  []entryRecord // of to, the files that come
	affected []*File       // the present ones that are replaced or go
	head     SnapshotID    // the VM's afterwards
	drop     *Snapshot     // one that goes with the change
	shown    *Snapshot     // that the answer names
	by       []Request     // who asked for it
	running  bool          // a file was open for writing

	heads   *heads
	kept    *Snapshot // what is left behind
	old     []left
	orphans map[*File]*layer // heads for files that go and may be open, if their own are kept
}

func (c *change) keptName() string {
	if c.kept == nil {
		return ""
	}
	return c.kept.Name()
}

// run makes the change. It refuses while a file that it affects is open for writing, unless forced, and says whether
// one was.
func (c *change) run(force bool) (running bool, err error) {
	v := c.vm
	var open string
	busy := func() bool {
		i := slices.IndexFunc(c.affected, func(f *File) bool { return f.openFor(true) })
		if i >= 0 {
			open = c.affected[i].Name()
		}
		return i >= 0
	}
	running = busy()
	if running && !force {
		if !v.awaitHandles(busy) {
			return false, Errorf(syscall.EBUSY, "file %q of VM %q is open for writing: stop the VM first, or force it and reset the guest", open, v.Name())
		}
		running = false
	}
	if c.kept != nil {
		if err := c.kept.fits(c.affected, 0); err != nil {
			return false, err
		}
		if running {
			c.kept.Consistency = ConsistencyCrash
		}
	}
	c.running = running
	return running, c.make()
}

func (c *change) make() error {
	v, s := c.vm, c.vm.store
	for _, f := range c.affected {
		f.awaitVoid()
		if err := f.Commit(true); err != nil && c.kept != nil {
			return err
		}
	}
	c.heads = &heads{vm: v}
	for _, e := range c.entries {
		c.heads.new = append(c.heads.new, newHead{id: e.File, over: s.tree.layer(e.Layer)})
	}
	if err := c.heads.prepare(); err != nil {
		return err
	}
	if err := c.switchOver(); err != nil {
		c.heads.undo()
		return err
	}
	return nil
}

// switchOver commits the new state and shows it; nobody changes a file of the VM meanwhile.
func (c *change) switchOver() error {
	v := c.vm
	v.sealing.Lock()
	defer v.sealing.Unlock()
	v.barrier.Lock()
	defer v.barrier.Unlock()
	for _, f := range c.affected {
		c.old = append(c.old, f.leave())
		if !c.returns(f) {
			f.unlink()
		}
	}
	err := c.commitAndShow()
	if err != nil {
		for _, f := range c.affected {
			f.relink()
		}
	}
	return err
}

func (c *change) commitAndShow() error {
	v := c.vm
	if c.kept != nil {
		c.fillKept()
		if err := seal(c.old); err != nil {
			return err
		}
	}
	if err := v.store.update(c.commit); err != nil {
		return err
	}
	c.show()
	return nil
}

// keep has what is left behind kept as a snapshot.
func (c *change) keep(name, description string) {
	c.kept = c.vm.newSnapshot(CreateOptions{Name: name, Description: description})
}

// fillKept puts into the snapshot what is left behind, and makes heads for files that go and may be open.
func (c *change) fillKept() {
	v := c.vm
	c.kept.snapshotRecord.Created = time.Now().UnixNano()
	for _, e := range v.Files() {
		if !slices.Contains(c.affected, e.File) {
			c.kept.Excluded = append(c.kept.Excluded, e.Name)
			c.kept.ExcludedIDs = append(c.kept.ExcludedIDs, e.File.id)
		}
	}
	c.orphans = make(map[*File]*layer)
	for _, o := range c.old {
		c.kept.Files = append(c.kept.Files, o.entry())
		if o.file.isOrphan() {
			lin := &lineage{id: lineageID(v.store.newID()), parent: o.head.lineage, branch: o.head.id}
			c.orphans[o.file] = v.store.newLayer(o.file.id, lin)
		}
	}
}

func (c *change) commit(tx *blockmap.Tx) error {
	v := c.vm
	v.store.putDone(tx, c.by, c.done())
	tx.Delete(catalogKey(tablePrepared, v.id))
	if c.kept != nil {
		put(tx, catalogKey(tableSnapshot, c.kept.id), c.kept.snapshotRecord)
	}
	for _, o := range c.old {
		if err := c.commitOld(tx, o); err != nil {
			return err
		}
	}
	for i, e := range c.entries {
		put(tx, catalogKey(tableFile, e.File), c.fileRecord(i))
	}
	if c.drop != nil {
		tx.Delete(catalogKey(tableSnapshot, c.drop.id))
	}
	if err := v.store.putNext(tx); err != nil {
		return err
	}
	return edit(tx, catalogKey(tableVM, v.id), func(rec *vmRecord) { rec.Head, rec.Preview = c.head, c.previewAfter() })
}

// done is what a request is answered with that asked for the change.
func (c *change) done() doneRecord {
	r := doneRecord{Snapshot: c.shown.id, Name: c.shown.Name(), Reset: c.running}
	if c.kept != nil && !c.kept.Hidden {
		r.Kept = c.kept.snapshotRecord.Name
	}
	return r
}

// commitOld takes a present file away. One that may be open keeps a record without a name, and if what it held is kept,
// a head over that.
func (c *change) commitOld(tx *blockmap.Tx, o left) error {
	if c.returns(o.file) {
		return nil // its record is put anew
	}
	if err := o.file.putUnlinked(tx); err != nil {
		return err
	}
	head := c.orphans[o.file]
	if head == nil {
		return nil
	}
	put(tx, catalogKey(tableLineage, head.lineage.id), lineageRecord{Parent: o.head.lineage.id, Branch: o.head.id})
	put(tx, catalogKey(tableLayer, head.id), head.record())
	return editIfThere(tx, catalogKey(tableFile, o.file.id), func(r *fileRecord) { r.Head = head.id })
}

// returns says whether the snapshot has a file.
func (c *change) returns(f *File) bool {
	return slices.ContainsFunc(c.entries, func(e entryRecord) bool { return e.File == f.id })
}

// previewAfter is the hidden snapshot that the VM can be brought back to afterwards: what is left behind is, if hidden.
func (c *change) previewAfter() SnapshotID {
	if c.kept != nil && c.kept.Hidden {
		return c.kept.id
	}
	return 0
}

func (c *change) fileRecord(i int) fileRecord {
	e := c.entries[i]
	return fileRecord{
		VM: c.vm.id, Name: e.Name, Attr: e.Attr, Size: e.Size, Allocated: e.Allocated, Head: c.heads.new[i].head.id,
	}
}

// show is commit's work in memory. A file keeps its identity, so that open handles follow it to the new state, and one
// that was unlinked and is still open returns.
func (c *change) show() {
	v, s := c.vm, c.vm.store
	for _, o := range c.old {
		v.mu.Lock()
		delete(v.files, o.name)
		v.mu.Unlock()
	}
	for i := range c.entries {
		c.showFile(i)
	}
	s.tree.Lock()
	for _, o := range c.old {
		if o.head.owner == o.file && o.file.state.Load().head != o.head {
			o.head.owner = nil
		}
		if c.kept != nil {
			o.head.snap = c.kept
		}
	}
	s.tree.Unlock()
	if c.kept != nil {
		c.kept.state = StateReady
		v.addSnapshot(c.kept)
	}
	v.mu.Lock()
	v.head, v.preview = c.head, c.previewAfter()
	if c.drop != nil {
		delete(v.snapshots, c.drop.snapshotRecord.Name)
		s.snapshots.Delete(c.drop.id)
	}
	v.mu.Unlock()
	c.letGo()
	if c.drop != nil {
		s.retireSnapshots([]*Snapshot{c.drop})
	}
}

// showFile puts the i-th file of the snapshot into the VM.
func (c *change) showFile(i int) {
	v, s, e := c.vm, c.vm.store, c.entries[i]
	record, head := c.fileRecord(i), c.heads.new[i].head
	var f *File
	if f = s.files.Load(e.File); f != nil {
		f.mu.Lock()
		f.name, f.attr, f.linked, f.orphan = record.Name, record.Attr, true, false
		f.mu.Unlock()
		f.setSize(record.Size)
		f.allocated.Store(record.Allocated)
		f.mtime.Store(record.Attr.Mtime)
		before := f.state.Load()
		f.setHead(head, nil)
		c.replaced(f, before)
	} else {
		f = newFile(v, e.File, record)
		f.setHead(head, nil)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.files[record.Name] = f
}

// replaced lets go of the state that a file had. One that was unlinked, so that no snapshot has it, is retired.
func (c *change) replaced(f *File, before *fileState) {
	before.chain.Close()
	if !slices.ContainsFunc(c.old, func(o left) bool { return o.file == f }) {
		before.head.stopFlushing(f.vm)
		f.vm.store.retire(before.head)
	}
}

// letGo ends the old heads, and the files that are no longer there.
func (c *change) letGo() {
	s := c.vm.store
	for _, o := range c.old {
		if o.file.state.Load().head == o.head {
			c.goneFile(o)
			continue
		}
		if c.kept != nil {
			o.head.endHead(c.vm)
		} else {
			o.head.stopFlushing(c.vm)
			s.retire(o.head)
		}
	}
}

// goneFile ends a file that the snapshot does not have. While it is open it lives on: over a head of its own if its
// old one was kept.
func (c *change) goneFile(o left) {
	s := c.vm.store
	open := o.file.isOrphan()
	if open && c.kept == nil {
		return // its last close retires the head
	}
	if open {
		c.orphanHead(o)
		return
	}
	s.files.Delete(o.file.id)
	o.file.state.Load().chain.Close()
	if c.kept != nil {
		o.head.endHead(c.vm)
		s.tree.Lock()
		o.head.owner = nil
		s.tree.Unlock()
		return
	}
	o.head.stopFlushing(c.vm)
	s.retire(o.head)
}

// orphanHead gives an unlinked file that is still open a head that the catalog does not know: it goes with the file's
// last close, or with the process.
func (c *change) orphanHead(o left) {
	s, head := c.vm.store, c.orphans[o.file]
	s.tree.Lock()
	s.tree.lineages[head.lineage.id] = head.lineage
	o.head.grown = append(o.head.grown, head.lineage)
	s.tree.addLocked(head)
	o.head.owner = nil
	s.tree.Unlock()
	before := o.file.state.Load()
	o.file.setHead(head, nil)
	before.chain.Close()
	o.head.endHead(c.vm)
}
