package layer

// Memory: reading the image of a machine's memory that a snapshot has, packed or not.

import (
	"errors"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// Memory is what a snapshot has of its machine's memory: the stream in which QEMU saved it. It never changes.
type Memory struct {
	snap  *Snapshot
	image *image
}

// Memory is the snapshot's; ENOENT if it has none.
func (n *Snapshot) Memory() (Memory, error) {
	if n.image == nil {
		return Memory{}, Errorf(syscall.ENOENT, "snapshot %q was taken without the machine's memory", n.Name())
	}
	return Memory{n, n.image}, nil
}

// Damage says why no machine can be started from the memory, as far as that shows without reading all of it, or a scrub found;
// nil if nothing does.
func (m Memory) Damage() error {
	for {
		r := m.image.record()
		err := m.image.images.checkFile(m.image.id, r)
		if err == nil || r == m.image.record() { // else it was being packed
			return err
		}
	}
}

// Attr is the VM directory's owner's. Size and blocks are those of the unpacked image.
func (m Memory) Attr() Attr {
	a := m.snap.vm.Attr()
	t := m.snap.Created()
	return Attr{
		Size: m.image.bytes, Blocks: uint64(m.image.bytes+511) / 512,
		Mode: 0o400, UID: a.UID, GID: a.GID, Atime: t, Mtime: t, Ctime: t, Nlink: 1,
	}
}

// Open enters a handle in the open table: the snapshot can't be deleted while one is there. ESTALE once it is going.
func (m Memory) Open(h Handle) error {
	v := m.snap.vm
	v.mu.Lock() // against a delete
	defer v.mu.Unlock()
	if m.snap.leaving || v.snapshots[m.snap.snapshotRecord.Name] != m.snap {
		return Errorf(syscall.ESTALE, "snapshot %q is gone", m.snap.snapshotRecord.Name)
	}
	if err := v.store.session.opened(h, v.id, uint64(m.snap.id), openMemory); err != nil {
		return err
	}
	m.image.handles[h] = struct{}{}
	return nil
}

// Close takes a handle out of the open table.
func (m Memory) Close(h Handle) {
	v := m.snap.vm
	v.mu.Lock()
	delete(m.image.handles, h)
	last := len(m.image.handles) == 0
	v.mu.Unlock()
	if last {
		m.image.closeSource()
	}
	v.store.session.closed(h)
	v.handleGone()
}

// Read fills p from off on, and returns less only at the end. It may take its time: a part may have to be unpacked.
func (m Memory) Read(p []byte, off int64) (int, error) {
	p = p[:max(0, min(int64(len(p)), m.image.bytes-off))]
	n, err := m.image.readAt(p, off)
	if n < len(p) { // io.EOF too: the image ends before its size
		errno := syscall.EIO
		if m.image.removed.Load() {
			errno = syscall.ESTALE
		}
		return 0, Errorf(errno, "read the memory of snapshot %q: %w", m.snap.Name(), err)
	}
	return n, nil
}

// readAt reads from the source that there is: whoever packs the image waits only to put another in its place.
func (i *image) readAt(p []byte, off int64) (int, error) {
	for {
		i.mu.RLock()
		if i.source != nil {
			defer i.mu.RUnlock()
			return i.source.ReadAt(p, off)
		}
		i.mu.RUnlock()
		if err := i.openSource(); err != nil {
			return 0, err
		}
	}
}

func (i *image) openSource() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.source != nil:
		return nil
	case i.removed.Load():
		return errors.New("it is deleted")
	}
	source, err := i.images.open(i.id, i.recordLocked())
	if err == nil {
		i.source = source
	}
	return err
}

// closeSource lets the next reader open the image anew, after what is to change about it.
func (i *image) closeSource(change ...func()) {
	i.mu.Lock()
	old := i.source
	i.source = nil
	for _, f := range change {
		f()
	}
	i.mu.Unlock()
	if old != nil {
		_ = old.Close() // it was only read
	}
}

// Machine is how the machine's monitor described it when the snapshot was taken, in JSON; nil if none did.
func (n *Snapshot) Machine() (text []byte, err error) {
	err = n.vm.store.index.View(func(tx *blockmap.Tx) error {
		text, err = tx.Get(catalogKey(tableMachine, n.id))
		return err
	})
	if err != nil {
		return nil, Errorf(syscall.EIO, "read the description of snapshot %q: %w", n.Name(), err)
	}
	return text, nil
}
