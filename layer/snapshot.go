package layer

// Snapshots: making, describing, renaming and deleting them, and reading their files.

import (
	"cmp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// Snapshot is a VM's state at one instant, under a name.
type Snapshot struct {
	id SnapshotID
	vm *VM

	snapshotRecord // Name, Parent, Consistency and Warning are guarded by VM.mu, the rest does not change
	state          string
	image          *image // of the machine's memory, or nil; set before the snapshot is shown
	leaving        bool   // guarded by VM.mu: no file of it is opened any more
}

// ID is the snapshot's catalog id.
func (n *Snapshot) ID() SnapshotID { return n.id }

// VM is the one that the snapshot is of.
func (n *Snapshot) VM() *VM { return n.vm }

// Name is the snapshot's present name.
func (n *Snapshot) Name() string {
	n.vm.mu.RLock()
	defer n.vm.mu.RUnlock()
	return n.snapshotRecord.Name
}

// Created is the instant that the snapshot shows.
func (n *Snapshot) Created() time.Time { return time.Unix(0, n.snapshotRecord.Created) }

// addSnapshot shows a snapshot.
func (v *VM) addSnapshot(n *Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snapshots[n.snapshotRecord.Name] = n
	v.store.snapshots.Store(n.id, n)
}

// Snapshots are the VM's, oldest first.
func (v *VM) Snapshots() []*Snapshot {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make([]*Snapshot, 0, len(v.snapshots))
	for _, n := range v.snapshots {
		if !n.Hidden {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b *Snapshot) int { return cmp.Compare(a.id, b.id) })
	return all
}

// Snapshot finds one by name; ENOENT.
func (v *VM) Snapshot(name string) (*Snapshot, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if n := v.snapshots[name]; n != nil && !n.Hidden {
		return n, nil
	}
	return nil, Errorf(syscall.ENOENT, "VM %q has no snapshot %q", v.Name(), name)
}

// Info describes the snapshot.
func (n *Snapshot) Info() SnapshotInfo {
	info := SnapshotInfo{
		Created: n.Created().UTC(), State: n.state, Description: n.Description,
		Excluded: slices.Clone(n.Excluded), Files: []FileInfo{},
	}
	if info.Excluded == nil {
		info.Excluded = []string{}
	}
	for _, e := range n.Files {
		info.Files = append(info.Files, FileInfo{Name: e.Name, Size: e.Size, Allocated: e.Allocated * blockSize})
		if l := n.vm.store.tree.layer(e.Layer); l != nil {
			info.Held += l.blocks.Load() * blockSize
		}
	}
	n.vm.mu.RLock()
	defer n.vm.mu.RUnlock()
	if n.image != nil {
		info.Memory = &n.image.bytes
	}
	info.Name, info.Running = n.snapshotRecord.Name, n.Running
	info.Head, info.Undo = n.vm.head == n.id, n.Undo
	info.Consistency = n.Consistency
	if warning := n.Warning; warning != "" {
		info.Warning = &warning
	}
	if parent := n.vm.store.snapshots.Load(n.Parent); parent != nil && !parent.Hidden {
		name := parent.snapshotRecord.Name // of the same VM, so under the same lock
		info.Parent = &name
	}
	return info
}

// RenameSnapshot gives a snapshot another name, durably; ENOENT, EEXIST, EINVAL. One that a revert or schedule made is the
// operator's from then on.
func (v *VM) RenameSnapshot(old, new string, by ...Request) (SnapshotInfo, error) {
	if err := CheckName(NameSnapshot, new); err != nil {
		return SnapshotInfo{}, err
	}
	v.op.Lock()
	defer v.op.Unlock()
	n, err := v.Snapshot(old)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if old == new {
		return n.Info(), nil
	}
	if _, err := v.Snapshot(new); err == nil {
		return SnapshotInfo{}, Errorf(syscall.EEXIST, "VM %q has a snapshot %q already", v.Name(), new)
	}
	err = v.store.update(v.store.withDone(by, doneRecord{Snapshot: n.id, Name: new}, func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableSnapshot, n.id), func(r *snapshotRecord) { r.Name, r.Undo, r.Auto = new, false, false })
	}))
	if err != nil {
		return SnapshotInfo{}, err
	}
	v.mu.Lock()
	delete(v.snapshots, old)
	n.snapshotRecord.Name, n.Undo, n.Auto = new, false, false
	v.snapshots[new] = n
	v.mu.Unlock()
	return n.Info(), nil
}

// DeleteSnapshots deletes all of the named ones or none; ENOENT, EBUSY with an open file. No data is read or written:
// the layers retire, and what nobody sees of them is given back in the background.
func (v *VM) DeleteSnapshots(names []string, by ...Request) ([]SnapshotInfo, error) {
	v.op.Lock()
	defer v.op.Unlock()
	var gone []*Snapshot
	for _, name := range names {
		n, err := v.Snapshot(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(gone, n) {
			gone = append(gone, n)
		}
	}
	if len(gone) == 0 {
		return nil, Errorf(syscall.EINVAL, "no snapshot is named")
	}
	if err := v.refusePreviewed(gone); err != nil {
		return nil, err
	}
	if err := v.refuseOpens(gone); err != nil {
		return nil, err
	}
	infos := make([]SnapshotInfo, 0, len(gone))
	for _, n := range gone {
		infos = append(infos, n.Info())
	}
	done := doneDeleted(infos)
	if err := v.dropSnapshots(gone, func(tx *blockmap.Tx) { v.store.putDone(tx, by, done) }); err != nil {
		v.allowOpens(gone)
		return nil, err
	}
	return infos, nil
}

// dropSnapshots takes snapshots out of the catalog, then out of memory. Their children's parent is theirs. also is
// put into the transaction.
func (v *VM) dropSnapshots(gone []*Snapshot, also ...func(*blockmap.Tx)) error {
	parents, head := v.adopt(gone)
	err := v.store.updateFreeing(func(tx *blockmap.Tx) error {
		for _, put := range also {
			put(tx)
		}
		for _, n := range gone {
			tx.Delete(catalogKey(tableSnapshot, n.id))
			tx.Delete(catalogKey(tableMachine, n.id))
		}
		for n, parent := range parents {
			err := edit(tx, catalogKey(tableSnapshot, n.id), func(r *snapshotRecord) { r.Parent = parent })
			if err != nil {
				return err
			}
		}
		return edit(tx, catalogKey(tableVM, v.id), func(r *vmRecord) { r.Head = head })
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	for _, n := range gone {
		delete(v.snapshots, n.snapshotRecord.Name)
		v.store.snapshots.Delete(n.id)
	}
	for n, parent := range parents {
		n.Parent = parent
	}
	v.head = head
	v.mu.Unlock()
	v.store.retireSnapshots(gone)
	v.store.images.removeImages(gone)
	return nil
}

// adopt finds new parents for the children of snapshots that go, and for the current state.
func (v *VM) adopt(gone []*Snapshot) (parents map[*Snapshot]SnapshotID, head SnapshotID) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	up := make(map[SnapshotID]SnapshotID)
	for _, n := range gone {
		up[n.id] = n.Parent
	}
	climb := func(id SnapshotID) SnapshotID {
		for parent, ok := up[id]; ok; parent, ok = up[id] {
			id = parent
		}
		return id
	}
	parents = make(map[*Snapshot]SnapshotID)
	for _, n := range v.snapshots {
		if _, going := up[n.id]; !going && climb(n.Parent) != n.Parent {
			parents[n] = climb(n.Parent)
		}
	}
	return parents, climb(v.head)
}

// undoName is the name under which an operation keeps what it leaves behind.
func (v *VM) undoName(what string, at time.Time) string {
	base := what + at.UTC().Format("20060102T150405Z")
	name := base
	for i := 2; ; i++ {
		if _, err := v.Snapshot(name); err != nil {
			return name
		}
		name = base + "-" + strconv.Itoa(i)
	}
}
