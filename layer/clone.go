package layer

// Clone: another VM that begins as a snapshot of this one, at the cost of a record a file.

import (
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// Clone makes a VM with the snapshot's files, durably. No data is copied: its heads lie over the snapshot's layers, and
// keep of them what they show when the snapshot, or the whole VM, goes. ENOENT, EEXIST, EINVAL, ENOSPC.
func (v *VM) Clone(snapshot, name string, by ...Request) (*VM, error) {
	if err := CheckName(NameVM, name); err != nil {
		return nil, err
	}
	v.op.Lock() // the snapshot stays meanwhile
	defer v.op.Unlock()
	n, err := v.Snapshot(snapshot)
	if err != nil {
		return nil, err
	}
	s := v.store
	if err := s.space.take(snapshotRoom); err != nil {
		return nil, err
	}
	v.mu.RLock()
	attr := v.attr
	v.mu.RUnlock()
	attr.Mtime = time.Now().UnixNano()
	c := newVM(s, VMID(s.newID()), name, attr)
	c.op.Lock() // nobody does anything in it before it is durable
	defer c.op.Unlock()
	if err := c.openLog(); err != nil {
		return nil, err
	}
	if err := s.reserveName(name, c); err != nil {
		s.session.dropRing(c.id)
		return nil, err
	}
	if err := c.growFrom(n, by); err != nil {
		s.mu.Lock()
		delete(s.vmsByName, name)
		s.mu.Unlock()
		s.session.dropRing(c.id)
		return nil, err
	}
	s.vms.Store(c.id, c)
	return c, nil
}

// growFrom commits a new VM with heads over the snapshot's layers, all at once, then shows its files.
func (v *VM) growFrom(n *Snapshot, by []Request) error {
	s, h := v.store, &heads{vm: v}
	ids := make([]FileID, len(n.Files))
	for i, e := range n.Files {
		ids[i] = FileID(s.newID())
		h.new = append(h.new, newHead{over: s.tree.layer(e.Layer), id: ids[i], apart: true})
	}
	record := func(i int) fileRecord {
		e := n.Files[i]
		return fileRecord{VM: v.id, Name: e.Name, Attr: e.Attr, Size: e.Size, Allocated: e.Allocated, Head: h.new[i].head.id}
	}
	h.place()
	done := doneRecord{Snapshot: n.id, Name: n.Name(), VM: v.name}
	err := s.update(s.withDone(by, done, func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableVM, v.id), vmRecord{Name: v.name, Attr: v.attr})
		put(tx, catalogKey(tableGrowth, v.id), growthRecord{Samples: v.samples})
		for i, id := range ids {
			put(tx, catalogKey(tableFile, id), record(i))
		}
		return h.put(tx)
	}))
	if err != nil {
		h.removeFromTree()
		return err
	}
	for i, id := range ids {
		f := newFile(v, id, record(i))
		f.setHead(h.new[i].head, nil)
		v.mu.Lock()
		v.files[f.name] = f
		v.mu.Unlock()
	}
	return nil
}
