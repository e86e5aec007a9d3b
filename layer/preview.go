package layer

// Preview: a look at a snapshot that can be written to, and then kept or undone.

import (
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// hiddenName is what a VM's state of before a preview is kept under. No snapshot of a user's can have it.
const hiddenName = ".preview"

// Preview makes the VM's files the snapshot's, or with Files just those, and keeps what they were for Undo. EBUSY during
// another preview, or while a file that it affects is open for writing, unless forced.
func (v *VM) Preview(o PreviewOptions) (RevertResult, error) {
	v.op.Lock()
	defer v.op.Unlock()
	n, err := v.Snapshot(o.Name)
	if err != nil {
		return RevertResult{}, err
	}
	if err := v.refusePreview("preview another"); err != nil {
		return RevertResult{}, err
	}
	entries, err := n.selectEntries(o.Files)
	if err != nil {
		return RevertResult{}, err
	}
	c := &change{vm: v, to: n, entries: entries, affected: v.affected(n, entries, o.Files == nil), head: n.id, by: []Request{o.By}, shown: n}
	c.keep(hiddenName, "")
	c.kept.Hidden = true
	running, err := c.run(o.Force)
	if err != nil {
		return RevertResult{}, err
	}
	return RevertResult{Snapshot: n.Info(), Reset: running}, nil
}

// Undo ends a preview: the files that it took are what they were. EINVAL without one. The result's snapshot is the one
// that was previewed.
func (v *VM) Undo(force bool, by ...Request) (RevertResult, error) {
	v.op.Lock()
	defer v.op.Unlock()
	hidden, shown, err := v.previewed()
	if err != nil {
		return RevertResult{}, err
	}
	c := &change{
		vm: v, to: hidden, entries: hidden.Files, affected: v.affected(hidden, hidden.Files, true),
		head: hidden.Parent, drop: hidden, by: by, shown: shown,
	}
	running, err := c.run(force)
	if err != nil {
		return RevertResult{}, err
	}
	return RevertResult{Snapshot: shown.Info(), Reset: running}, nil
}

// CommitPreview ends a preview: the VM goes on from what it shows, and what it was is kept as before-commit-…. EINVAL
// without a preview.
func (v *VM) CommitPreview(by ...Request) (RevertResult, error) {
	v.op.Lock()
	defer v.op.Unlock()
	hidden, shown, err := v.previewed()
	if err != nil {
		return RevertResult{}, err
	}
	record := hidden.snapshotRecord
	record.Name = v.undoName("before-commit-", time.Now())
	record.Description = "what a commit of " + shown.Name() + " left behind"
	record.Hidden, record.Undo = false, true
	done := doneRecord{Snapshot: shown.id, Name: shown.Name(), Kept: record.Name}
	err = v.store.update(v.store.withDone(by, done, func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableSnapshot, hidden.id), record)
		return edit(tx, catalogKey(tableVM, v.id), func(r *vmRecord) { r.Preview = 0 })
	}))
	if err != nil {
		return RevertResult{}, err
	}
	v.mu.Lock()
	delete(v.snapshots, hiddenName)
	hidden.snapshotRecord = record
	v.snapshots[record.Name] = hidden
	v.preview = 0
	v.mu.Unlock()
	v.thinUndo(shown)
	return RevertResult{Snapshot: shown.Info(), Kept: record.Name}, nil
}

// previewed are the hidden snapshot of what the VM was before its preview, and the one that it shows; EINVAL without a
// preview.
func (v *VM) previewed() (hidden, shown *Snapshot, err error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.preview == 0 {
		return nil, nil, Errorf(syscall.EINVAL, "VM %q has no preview", v.Name())
	}
	for _, id := range []SnapshotID{v.preview, v.head} {
		n, err := v.store.SnapshotByID(id)
		if err != nil {
			return nil, nil, err
		}
		hidden, shown = shown, n
	}
	return hidden, shown, nil
}

// refusePreview is EBUSY during a preview.
func (v *VM) refusePreview(what string) error {
	if _, shown, err := v.previewed(); err == nil {
		return Errorf(syscall.EBUSY, "can't %s while VM %q previews %q; commit or undo that first", what, v.Name(), shown.Name())
	}
	return nil
}

// refusePreviewed is EBUSY if the snapshot that is previewed is among those that are to go.
func (v *VM) refusePreviewed(gone []*Snapshot) error {
	if _, shown, err := v.previewed(); err == nil && slices.Contains(gone, shown) {
		return Errorf(syscall.EBUSY, "snapshot %q is previewed; commit or undo that first", shown.Name())
	}
	return nil
}
