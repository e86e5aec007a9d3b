package layer

// Views: the files of snapshots, read-only.

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// View is a file as a snapshot has it. It never changes.
type View struct {
	layer *layer
	snap  *Snapshot
	entry entryRecord

	chain atomic.Pointer[chainMap] // while it is open

	mu      sync.Mutex // guards what follows
	handles map[Handle]struct{}
}

// View finds a file of the snapshot by name; ENOENT.
func (n *Snapshot) View(file string) (*View, error) {
	i, ok := slices.BinarySearchFunc(n.Files, file, func(e entryRecord, name string) int { return cmp.Compare(e.Name, name) })
	if !ok {
		return nil, Errorf(syscall.ENOENT, "snapshot %q has no file %q", n.Name(), file)
	}
	return n.view(n.Files[i]), nil
}

// Views are all files of the snapshot, by name.
func (n *Snapshot) Views() []*View {
	views := make([]*View, 0, len(n.Files))
	for _, e := range n.Files {
		views = append(views, n.view(e))
	}
	return views
}

func (n *Snapshot) view(e entryRecord) *View {
	if open := n.vm.store.views.Load(e.Layer); open != nil {
		return open
	}
	return &View{layer: n.vm.store.tree.layer(e.Layer), snap: n, entry: e, handles: make(map[Handle]struct{})}
}

// ViewByID finds a snapshot's file by the layer that the snapshot sealed; ESTALE.
func (s *Store) ViewByID(id LayerID) (*View, error) {
	if open := s.views.Load(id); open != nil {
		return open, nil
	}
	if l := s.tree.layer(id); l != nil {
		s.tree.RLock()
		n := l.snap
		s.tree.RUnlock()
		if n != nil {
			if i := slices.IndexFunc(n.Files, func(e entryRecord) bool { return e.Layer == id }); i >= 0 {
				return n.view(n.Files[i]), nil
			}
		}
	}
	return nil, Errorf(syscall.ESTALE, "a snapshot's file is gone with its snapshot")
}

// ID is the sealed layer, of which no other snapshot has a file.
func (w *View) ID() LayerID { return w.entry.Layer }

// Name is the file's name when the snapshot was made.
func (w *View) Name() string { return w.entry.Name }

// Snapshot is the one that the file is of.
func (w *View) Snapshot() *Snapshot { return w.snap }

// Attr is the file's as it was, with no permission to write.
func (w *View) Attr() Attr {
	a := w.entry.Attr.attr()
	a.Mode &^= 0o222
	a.Size = w.entry.Size
	a.Blocks = uint64(max(0, w.entry.Allocated)) * (blockSize / 512)
	a.Ctime = time.Unix(0, w.snap.snapshotRecord.Created)
	return a
}

// Open enters a handle in the open table: the snapshot can't be deleted while one is there. ESTALE once it is going.
func (w *View) Open(h Handle) error {
	v := w.snap.vm
	v.mu.Lock() // against a delete
	defer v.mu.Unlock()
	if w.snap.leaving || v.snapshots[w.snap.snapshotRecord.Name] != w.snap {
		return Errorf(syscall.ESTALE, "snapshot %q is gone", w.snap.snapshotRecord.Name)
	}
	if err := v.store.session.opened(h, v.id, uint64(w.entry.Layer), openView); err != nil {
		return err
	}
	w = v.store.views.LoadOrStore(w.entry.Layer, w)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handles[h] = struct{}{}
	if w.chain.Load() == nil {
		v.store.chains.RLock()
		w.chain.Store(v.store.newMap(w.layer))
		v.store.chains.RUnlock()
	}
	return nil
}

// Close takes a handle out of the open table.
func (w *View) Close(h Handle) {
	v := w.snap.vm
	v.mu.Lock()
	if open := v.store.views.Load(w.entry.Layer); open != nil {
		w = open
	}
	w.mu.Lock()
	delete(w.handles, h)
	if len(w.handles) == 0 {
		v.store.views.Delete(w.entry.Layer)
		if chain := w.chain.Swap(nil); chain != nil {
			chain.Close()
		}
	}
	w.mu.Unlock()
	v.mu.Unlock()
	v.store.session.closed(h)
	v.handleGone()
}

// Read is File.Read for what the snapshot shows. EBADF if the file is not open.
func (w *View) Read(p []byte, off int64) (int, error) {
	chain, err := w.openChain()
	if err != nil {
		return 0, err
	}
	w.snap.vm.turns.take()
	defer w.snap.vm.turns.giveBack()
	return w.snap.vm.store.read(chain.Map, w.entry.Size, p, off)
}

// TryRead is File.TryRead likewise.
func (w *View) TryRead(p []byte, off int64) (data []byte, lent Loan, err error) {
	chain, err := w.openChain()
	if err != nil {
		return nil, Loan{}, err
	}
	return w.snap.vm.store.tryRead(chain, w.entry.Size, p, off)
}

func (w *View) openChain() (*chainMap, error) {
	chain := w.chain.Load()
	if chain == nil {
		return nil, Errorf(syscall.EBADF, "file %q of a snapshot is not open", w.entry.Name)
	}
	return chain, nil
}

// inUseLocked says whether a file of the snapshot is open. The caller holds VM.mu.
func (n *Snapshot) inUseLocked() bool {
	for _, e := range n.Files {
		if n.vm.store.views.Load(e.Layer) != nil {
			return true
		}
	}
	return n.image != nil && len(n.image.handles) > 0
}

// tryRefuseOpens lets no file of the snapshot be opened any more, unless one is.
func (n *Snapshot) tryRefuseOpens() bool {
	n.vm.mu.Lock()
	defer n.vm.mu.Unlock()
	if n.inUseLocked() {
		return false
	}
	n.leaving = true
	return true
}

// refuseOpens lets no file of the snapshots be opened any more; EBUSY if one is and stays so.
func (v *VM) refuseOpens(snapshots []*Snapshot) error {
	for i, n := range snapshots {
		if v.awaitHandles(func() bool { return !n.tryRefuseOpens() }) {
			continue
		}
		v.allowOpens(snapshots[:i])
		return Errorf(syscall.EBUSY, "a file of snapshot %q is open; close it first", n.Name())
	}
	return nil
}

func (v *VM) allowOpens(snapshots []*Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range snapshots {
		n.leaving = false
	}
}
