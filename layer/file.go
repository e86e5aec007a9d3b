package layer

// Files: attributes, handles, and the state that reads and writes work on.

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// MaxFileSize is ext4's, on which a data file may lie: 16 TiB less a block.
const MaxFileSize = 1<<44 - blockSize

const stripes = 64 // of a file's blocks, 64 blocks each

// File is a file of a VM: a disk, or firmware state, or settings.
type File struct {
	id FileID
	vm *VM

	size      atomic.Int64 // bytes
	grown     atomic.Int64 // the size that is about to be shown
	allocated atomic.Int64 // blocks that read as data
	mtime     atomic.Int64 // ns since 1970
	state     atomic.Pointer[fileState]
	voiding   atomic.Pointer[gate] // while blocks that a shrink cut off are cleared

	broken atomic.Bool // they could not be: nothing is written any more

	extending sync.Mutex          // serialises growth
	stripes   [stripes]sync.Mutex // of blocks: held while the head takes a block over

	mu      sync.Mutex // guards what follows
	name    string
	linked  bool       // a name leads to it
	orphan  bool       // none does, but it was open then, and has a record
	attr    attrRecord // Mtime is in mtime
	atime   time.Time
	handles map[Handle]bool // true: open for writing
}

// fileState is what one request works on: the layer that is written, and the map of the chain that ends with it.
type fileState struct {
	head  *layer
	chain *chainMap
}

// chainMap is a map with the layers of its chain that have something the index does not know yet, newest first.
type chainMap struct {
	*blockmap.Map
	number  uint64 // of all there have been
	unsaved atomic.Pointer[[]*layer]
}

// fileMeta is what the index keeps of a file beside its attributes.
type fileMeta struct{ size, allocated, mtime int64 }

// gate is closed when what it stands for has been done.
type gate chan struct{}

func newGate() *gate {
	g := make(gate)
	return &g
}

func newFile(v *VM, id FileID, r fileRecord) *File {
	f := &File{id: id, vm: v, name: r.Name, linked: !r.Unlinked, orphan: r.Unlinked, attr: r.Attr, handles: make(map[Handle]bool)}
	f.setSize(r.Size)
	f.allocated.Store(r.Allocated)
	f.mtime.Store(r.Attr.Mtime)
	f.atime = time.Unix(0, r.Attr.Mtime)
	return f
}

// newMap makes the map of the chain that ends with top; unsaved are its layers that may be written or sealed.
func (s *Store) newMap(top *layer, unsaved ...*layer) *chainMap {
	m := &chainMap{number: s.maps.Add(1)}
	m.unsaved.Store(&unsaved)
	m.Map = s.cache.NewMap(s.tree.chain(top), m.overlay)
	return m
}

// overlay is what of a region the index does not have yet.
func (m *chainMap) overlay(region uint64) []blockmap.LayerDelta {
	var deltas []blockmap.LayerDelta
	for _, l := range *m.unsaved.Load() {
		w := l.writer()
		if w == nil {
			continue
		}
		if d, ok := w.dirty.Delta(region); ok {
			deltas = append(deltas, blockmap.LayerDelta{Layer: l.id, Delta: d})
		}
	}
	return deltas
}

// setHead makes head the layer that is written, and the file known to the store. Over the head of before, whose chain it continues, the map stays: a
// new head owns nothing yet. A head of another chain gets a map of its own.
func (f *File) setHead(head *layer, over *fileState) {
	s := f.vm.store
	s.chains.RLock()
	defer s.chains.RUnlock()
	if head.writer() == nil {
		w := &headState{saved: f.meta(), recorded: head.hasFile.Load()}
		w.failed.Store(s.session.hasFailed(head.id))
		head.head.Store(w)
	}
	s.tree.Lock()
	head.owner = f
	if over != nil {
		over.head.owner = nil
	}
	s.tree.Unlock()
	var chain *chainMap
	if over == nil {
		chain = s.newMap(head, head)
	} else {
		chain = over.chain
		unsaved := append([]*layer{head}, *chain.unsaved.Load()...)
		chain.unsaved.Store(&unsaved)
		chain.SetChain(s.tree.chain(head))
	}
	f.state.Store(&fileState{head: head, chain: chain})
	s.files.Store(f.id, f)
}

func (f *File) meta() fileMeta {
	return fileMeta{size: f.grown.Load(), allocated: f.allocated.Load(), mtime: f.mtime.Load()}
}

// ID is the file's catalog id.
func (f *File) ID() FileID { return f.id }

// VM is the one that the file belongs to.
func (f *File) VM() *VM { return f.vm }

// Name is the file's present name, or the last it had.
func (f *File) Name() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.name
}

func (f *File) setName(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name = name
}

func (f *File) String() string { return fmt.Sprintf("%s/%s", f.vm.Name(), f.Name()) }

// Attr is what stat(2) shows.
func (f *File) Attr() Attr {
	f.mu.Lock()
	a := f.attr.attr()
	a.Atime = f.atime
	if !f.linked {
		a.Nlink = 0
	}
	f.mu.Unlock()
	a.Size = f.size.Load()
	a.Blocks = uint64(max(0, f.allocated.Load())) * (blockSize / 512)
	a.Mtime = time.Unix(0, f.mtime.Load())
	a.Ctime = a.Mtime
	return a
}

// SetAttr changes attributes and size. What it changes, but for times, survives a power loss when it returns.
func (f *File) SetAttr(set SetAttr) (Attr, error) {
	f.vm.op.Lock()
	defer f.vm.op.Unlock()
	if set.Size != nil {
		if err := f.truncate(*set.Size); err != nil {
			return Attr{}, err
		}
	}
	if err := f.setOwner(set); err != nil {
		return Attr{}, err
	}
	f.mu.Lock()
	if set.Atime != nil {
		f.atime = *set.Atime
	}
	f.mu.Unlock()
	if set.Mtime != nil {
		f.mtime.Store(set.Mtime.UnixNano())
	} else if set.Size != nil {
		f.touch()
	}
	return f.Attr(), nil
}

func (f *File) setOwner(set SetAttr) error {
	if set.Mode == nil && set.UID == nil && set.GID == nil && set.Mtime == nil {
		return nil
	}
	f.mu.Lock()
	attr := f.attr
	f.mu.Unlock()
	attr.Mtime = f.mtime.Load()
	attr.change(set)
	err := f.vm.store.update(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableFile, f.id), func(r *fileRecord) { r.Attr = attr })
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attr = attr
	return nil
}

func (f *File) touch() { f.mtime.Store(time.Now().UnixNano()) }

// Open enters a handle in the open table, before the opener hears of it.
func (f *File) Open(h Handle, write bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.linked && len(f.handles) == 0 {
		return Errorf(syscall.ESTALE, "file %q is gone", f.name)
	}
	var flags uint64
	if write {
		flags = openWrites
	}
	if err := f.vm.store.session.opened(h, f.vm.id, uint64(f.id), flags); err != nil {
		return err
	}
	f.handles[h] = write
	return nil
}

// Close takes a handle out of the open table. With its last one an unlinked file goes.
func (f *File) Close(h Handle) {
	f.mu.Lock()
	delete(f.handles, h)
	orphan := !f.linked && len(f.handles) == 0
	f.mu.Unlock()
	f.vm.store.session.closed(h)
	f.vm.handleGone()
	if orphan {
		f.vm.op.Lock()
		defer f.vm.op.Unlock()
		f.discard()
	}
}

// unlink takes the name away, before the catalog does: the file can't be opened any more unless it is open.
func (f *File) unlink() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.linked, f.orphan = false, len(f.handles) > 0
}

// relink gives the name back.
func (f *File) relink() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.linked, f.orphan = true, false
}

// isOrphan says whether the file had no name, but was open, when it lost its name.
func (f *File) isOrphan() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.orphan
}

// putUnlinked takes the name away in the catalog. The record of a file that is open stays until its last close; a start
// that finds one, and nobody who has the file open, drops it.
func (f *File) putUnlinked(tx *blockmap.Tx) error {
	if !f.isOrphan() {
		tx.Delete(catalogKey(tableFile, f.id))
		return nil
	}
	return edit(tx, catalogKey(tableFile, f.id), func(r *fileRecord) { r.Unlinked = true })
}

// unlinked lets go of a file whose name is gone, unless somebody has it open: its last close does then. The caller holds
// the VM's op.
func (f *File) unlinked() {
	if !f.isOrphan() {
		f.discard()
	}
}

// discard lets go of a file that neither a name nor a handle leads to. The caller holds the VM's op.
func (f *File) discard() {
	f.mu.Lock()
	back := f.linked || len(f.handles) > 0 // a revert brought it back
	f.mu.Unlock()
	s := f.vm.store
	if back || s.files.Load(f.id) == nil {
		return
	}
	if g := f.voiding.Load(); g != nil {
		<-*g
	}
	s.files.Delete(f.id)
	st := f.state.Load()
	st.head.stopFlushing(f.vm)
	if f.isOrphan() {
		err := s.update(func(tx *blockmap.Tx) error { tx.Delete(catalogKey(tableFile, f.id)); return nil })
		if err != nil {
			s.opts.Event(f.vm.Name(), "discard-failed", "file", f.Name(), "error", err.Error()) // the next start does it
		}
	}
	st.chain.Close()
	s.retire(st.head)
}

// stopFlushing lets a flush that runs end, and no other begin.
func (l *layer) stopFlushing(v *VM) {
	if w := l.writer(); w != nil {
		w.flushing.Lock()
		defer w.flushing.Unlock()
		w.gone = true
		v.log.release(&w.logged)
		v.store.journal.forget(l.id)
	}
}

// endHead takes away what only a head needs, once the index has all of it.
func (l *layer) endHead(v *VM) {
	if w := l.head.Swap(nil); w != nil {
		v.log.release(&w.logged)
	}
}

// openFor says whether a handle of the file is open, for writing if write is true.
func (f *File) openFor(write bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.handles {
		if w || !write {
			return true
		}
	}
	return false
}

// handleGone wakes those who wait for handles to go.
func (v *VM) handleGone() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.released)
	v.released = make(chan struct{})
}

// patience is how long an operation that would answer EBUSY waits: a RELEASE arrives after close(2) has returned.
const patience = time.Second

// awaitHandles waits until busy says no, for as long as patience.
func (v *VM) awaitHandles(busy func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		v.mu.RLock()
		released := v.released
		v.mu.RUnlock()
		if !busy() {
			return true
		}
		select {
		case <-released:
		case <-deadline.C:
			return !busy()
		}
	}
}
