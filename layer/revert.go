package layer

// Revert: back to a snapshot, by new heads over its layers. Newer snapshots stay: a tree, not a line.

import "time"

// Revert makes the VM's files exactly the snapshot's: newer ones go, renamed and unlinked ones return, those that the
// snapshot left out stay. What is left behind is kept as before-revert-… unless discarded. EBUSY while a file of the VM
// is open for writing, unless forced: then open handles read the new state, and the guest must be reset.
func (v *VM) Revert(o RevertOptions) (RevertResult, error) {
	v.op.Lock()
	defer v.op.Unlock()
	n, err := v.Snapshot(o.Name)
	if err != nil {
		return RevertResult{}, err
	}
	if err := v.refusePreview("revert"); err != nil {
		return RevertResult{}, err
	}
	entries, err := n.selectEntries(o.Files)
	if err != nil {
		return RevertResult{}, err
	}
	c := &change{vm: v, to: n, entries: entries, affected: v.affected(n, entries, o.Files == nil), head: n.id, by: []Request{o.By}, shown: n}
	if !o.Discard {
		c.keep(v.undoName("before-revert-", time.Now()), "what a revert to "+n.Name()+" left behind")
		c.kept.Undo = true
	}
	running, err := c.run(o.Force)
	if err != nil {
		return RevertResult{}, err
	}
	v.thinUndo(n)
	return RevertResult{Snapshot: n.Info(), Kept: c.keptName(), Reset: running}, nil
}

// thinUndo deletes the oldest of what reverts and commits kept, but for the newest few that the policy says, those in use, and to, which the VM was
// reverted to.
func (v *VM) thinUndo(to *Snapshot) {
	var kept []*Snapshot
	for _, n := range v.Snapshots() {
		if n.Undo && n != to {
			kept = append(kept, n)
		}
	}
	for len(kept) > v.Policy().Keep.Undo {
		n := kept[0]
		kept = kept[1:]
		if n.tryRefuseOpens() {
			if err := v.dropSnapshots([]*Snapshot{n}); err != nil {
				v.allowOpens([]*Snapshot{n})
			}
		}
	}
}
