package layer

// VMs: directories of files, and the names in them.

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// maxFiles is how many files a VM can have: a snapshot lists them all in one record.
const maxFiles = 2000

// VM is a virtual machine's directory: its files and its snapshots.
type VM struct {
	id    VMID
	store *Store
	name  string // guarded by Store.mu

	log   *ring // of what the index does not know yet
	turns turns

	op       sync.Mutex // one namespace or snapshot operation at a time
	logFlush sync.Mutex // one flush for want of room in the log at a time

	sealing sync.RWMutex // shared by flushes, exclusive from the swap of heads until they are sealed
	barrier sync.RWMutex // shared by every change to a file, exclusive for the instant of a swap

	flushed atomic.Int64 // when a flush of a file was last asked for, in ns since 1970

	usage paced[map[SnapshotID]int64]

	mu        sync.RWMutex // guards what follows
	attr      attrRecord
	files     map[string]*File
	snapshots map[string]*Snapshot
	head      SnapshotID
	preview   SnapshotID // hidden: what undo brings back; 0: no preview
	policy    Policy
	samples   []heldAt
	gone      bool
	released  chan struct{} // closed and made anew whenever a handle goes
}

func newVM(s *Store, id VMID, name string, attr attrRecord) *VM {
	return &VM{
		turns: newTurns(), id: id, store: s, name: name, attr: attr, files: make(map[string]*File),
		snapshots: make(map[string]*Snapshot), policy: DefaultPolicy(), released: make(chan struct{}),
		samples: []heldAt{newHeldAt(time.Now(), 0)},
	}
}

// openLog gives the VM its log in the session.
func (v *VM) openLog() (err error) {
	if v.log, err = v.store.session.ring(v.id); err != nil {
		return err
	}
	v.log.ask = func() { v.store.work.start(func() { _ = v.flushLogged() }) }
	return nil
}

// flushLogged flushes those files of the VM of which the log has something.
func (v *VM) flushLogged() error {
	var errs []error
	v.store.files.Range(func(f *File) bool {
		if f.vm == v && f.pending() {
			errs = append(errs, f.Commit(false))
		}
		return true
	})
	return errors.Join(errs...)
}

// awaitLog makes room for so many records, or returns why nothing can be written.
func (v *VM) awaitLog(records uint64) error {
	v.logFlush.Lock()
	defer v.logFlush.Unlock()
	if v.log.charge(records) {
		v.log.discharge(records)
		return nil
	}
	return v.flushLogged()
}

// logMark is where the log is now.
func (v *VM) logMark() *logMark { return &logMark{v.store.session.header.id, v.log.position()} }

// ID is the VM's catalog id.
func (v *VM) ID() VMID { return v.id }

// Store is the one that the VM is in.
func (v *VM) Store() *Store { return v.store }

// Name is the VM's present name.
func (v *VM) Name() string {
	v.store.mu.RLock()
	defer v.store.mu.RUnlock()
	return v.name
}

// Attr is the directory's.
func (v *VM) Attr() Attr {
	v.mu.RLock()
	defer v.mu.RUnlock()
	a := v.attr.attr()
	a.Nlink = 2
	return a
}

func (r attrRecord) attr() Attr {
	t := time.Unix(0, r.Mtime)
	return Attr{Mode: r.Mode, UID: r.UID, GID: r.GID, Atime: t, Mtime: t, Ctime: t, Nlink: 1}
}

func (r *attrRecord) change(set SetAttr) {
	if set.Mode != nil {
		r.Mode = *set.Mode & 0o7777
	}
	if set.UID != nil {
		r.UID = *set.UID
	}
	if set.GID != nil {
		r.GID = *set.GID
	}
	if set.Mtime != nil {
		r.Mtime = set.Mtime.UnixNano()
	}
}

// SetAttr changes the directory's owner, mode and times, durably.
func (v *VM) SetAttr(set SetAttr) (Attr, error) {
	if set.Size != nil {
		return Attr{}, Errorf(syscall.EISDIR, "VM %q is a directory", v.Name())
	}
	v.op.Lock()
	defer v.op.Unlock()
	v.mu.RLock()
	attr := v.attr
	v.mu.RUnlock()
	attr.change(set)
	err := v.store.update(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableVM, v.id), func(r *vmRecord) { r.Attr = attr })
	})
	if err != nil {
		return Attr{}, err
	}
	v.mu.Lock()
	v.attr = attr
	v.mu.Unlock()
	return v.Attr(), nil
}

// CreateVM makes a VM, durably; EEXIST, EINVAL.
func (s *Store) CreateVM(name string, mode, uid, gid uint32, by ...Request) (*VM, error) {
	if err := CheckName(NameVM, name); err != nil {
		return nil, err
	}
	v := newVM(s, VMID(s.newID()), name, attrRecord{Mode: mode & 0o7777, UID: uid, GID: gid, Mtime: time.Now().UnixNano()})
	v.op.Lock() // nobody does anything in it before it is durable
	defer v.op.Unlock()
	if err := v.openLog(); err != nil {
		return nil, err
	}
	if err := s.reserveName(name, v); err != nil {
		s.session.dropRing(v.id)
		return nil, err
	}
	err := s.update(s.withDone(by, doneRecord{}, func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableVM, v.id), vmRecord{Name: name, Attr: v.attr})
		put(tx, catalogKey(tableGrowth, v.id), growthRecord{Samples: v.samples})
		return s.putNext(tx)
	}))
	if err != nil {
		s.mu.Lock()
		delete(s.vmsByName, name)
		s.mu.Unlock()
		s.session.dropRing(v.id)
		return nil, err
	}
	s.vms.Store(v.id, v)
	return v, nil
}

// reserveName takes a name for v while its creation is committed.
func (s *Store) reserveName(name string, v *VM) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vmsByName[name] != nil {
		return Errorf(syscall.EEXIST, "there is a VM %q already", name)
	}
	s.vmsByName[name] = v
	return nil
}

// RemoveVM removes a VM without files and snapshots; ENOTEMPTY.
func (s *Store) RemoveVM(name string, by ...Request) error {
	v, err := s.VM(name)
	if err != nil {
		return err
	}
	v.op.Lock()
	defer v.op.Unlock()
	if err := v.present(name); err != nil {
		return err
	}
	if err := v.empty(); err != nil {
		return err
	}
	if err := s.update(s.withDone(by, doneRecord{}, func(tx *blockmap.Tx) error {
		tx.Delete(catalogKey(tableVM, v.id))
		tx.Delete(catalogKey(tablePolicy, v.id))
		tx.Delete(catalogKey(tableGrowth, v.id))
		return nil
	})); err != nil {
		return err
	}
	v.mu.Lock()
	v.gone = true
	v.mu.Unlock()
	s.mu.Lock()
	delete(s.vmsByName, v.name)
	s.mu.Unlock()
	s.vms.Delete(v.id)
	if !v.hasOpen() {
		s.session.dropRing(v.id)
	}
	return nil
}

// hasOpen says whether a file of the VM, all of which are unlinked, is open.
func (v *VM) hasOpen() (open bool) {
	v.store.files.Range(func(f *File) bool {
		open = f.vm == v
		return !open
	})
	return open
}

func (v *VM) empty() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.files) > 0 || len(v.snapshots) > 0 {
		return Errorf(syscall.ENOTEMPTY, "VM %q has %d files and %d snapshots", v.Name(), len(v.files), len(v.snapshots))
	}
	return nil
}

// present refuses operations on a VM that was removed, or renamed from the name given, while they waited.
func (v *VM) present(name string) error {
	v.mu.RLock()
	gone := v.gone
	v.mu.RUnlock()
	if gone || name != "" && v.Name() != name {
		return Errorf(syscall.ENOENT, "there is no VM %q any more", name)
	}
	return nil
}

// RenameVM renames a VM, durably. An empty VM of the new name is replaced, as rename(2) does, unless noReplace.
func (s *Store) RenameVM(old, new string, noReplace bool, by ...Request) error {
	if err := CheckName(NameVM, new); err != nil {
		return err
	}
	v, err := s.VM(old)
	if err != nil {
		return err
	}
	if old == new {
		return nil
	}
	if target, err := s.VM(new); err == nil {
		if noReplace {
			return Errorf(syscall.EEXIST, "there is a VM %q already", new)
		}
		if err := s.RemoveVM(target.Name()); err != nil {
			return err
		}
	}
	v.op.Lock()
	defer v.op.Unlock()
	if err := v.present(old); err != nil {
		return err
	}
	if err := s.reserveName(new, v); err != nil {
		return err
	}
	err = s.update(s.withDone(by, doneRecord{}, func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableVM, v.id), func(r *vmRecord) { r.Name = new })
	}))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.vmsByName, new)
		return err
	}
	delete(s.vmsByName, old)
	v.name = new
	return nil
}

// Lookup finds a file by name; ENOENT.
func (v *VM) Lookup(name string) (*File, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if f := v.files[name]; f != nil {
		return f, nil
	}
	return nil, Errorf(syscall.ENOENT, "VM %q has no file %q", v.Name(), name)
}

// Files are all of them, by name.
func (v *VM) Files() []FileEntry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	files := make([]FileEntry, 0, len(v.files))
	for name, f := range v.files {
		files = append(files, FileEntry{Name: name, File: f})
	}
	slices.SortFunc(files, func(a, b FileEntry) int { return cmp.Compare(a.Name, b.Name) })
	return files
}

// Create makes an empty file, durably, or finds the one that is there; EEXIST if it must not be.
func (v *VM) Create(name string, mode, uid, gid uint32, excl bool, by ...Request) (f *File, created bool, err error) {
	if err := CheckName(NameFile, name); err != nil {
		return nil, false, err
	}
	v.op.Lock()
	defer v.op.Unlock()
	if err := v.present(""); err != nil {
		return nil, false, err
	}
	if f, err := v.Lookup(name); err == nil {
		if excl {
			return nil, false, Errorf(syscall.EEXIST, "VM %q has a file %q already", v.Name(), name)
		}
		return f, false, nil
	}
	if len(v.Files()) >= maxFiles {
		return nil, false, Errorf(syscall.ENOSPC, "VM %q has %d files already, and a VM has no more", v.Name(), maxFiles)
	}
	f, err = v.create(name, attrRecord{Mode: mode & 0o7777, UID: uid, GID: gid, Mtime: time.Now().UnixNano()}, by)
	return f, err == nil, err
}

// create commits a file with a head in a lineage of its own, then shows it.
func (v *VM) create(name string, attr attrRecord, by []Request) (*File, error) {
	s := v.store
	id := FileID(s.newID())
	head := s.newLayer(id, &lineage{id: lineageID(s.newID())})
	record := fileRecord{VM: v.id, Name: name, Attr: attr, Head: head.id}
	err := s.update(s.withDone(by, doneRecord{}, func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableFile, id), record)
		put(tx, catalogKey(tableLineage, head.lineage.id), lineageRecord{})
		put(tx, catalogKey(tableLayer, head.id), head.record())
		return s.putNext(tx)
	}))
	if err != nil {
		return nil, err
	}
	f := newFile(v, id, record)
	s.tree.Lock()
	s.tree.lineages[head.lineage.id] = head.lineage
	s.tree.addLocked(head)
	s.tree.Unlock()
	f.setHead(head, nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.files[name] = f
	v.attr.Mtime = time.Now().UnixNano()
	return f, nil
}

// Unlink takes a file's name away, durably. What it holds goes with its last close.
func (v *VM) Unlink(name string, by ...Request) error {
	v.op.Lock()
	defer v.op.Unlock()
	f, err := v.Lookup(name)
	if err != nil {
		return err
	}
	f.unlink()
	if err := v.store.update(v.store.withDone(by, doneRecord{}, f.putUnlinked)); err != nil {
		f.relink()
		return err
	}
	v.mu.Lock()
	delete(v.files, name)
	v.attr.Mtime = time.Now().UnixNano()
	v.mu.Unlock()
	f.unlinked()
	return nil
}

// Rename gives a file another name, durably. What had that name is unlinked, or swapped with RenameExchange.
func (v *VM) Rename(old, new string, flags RenameFlags, by ...Request) error {
	if flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange {
		return Errorf(syscall.EINVAL, "rename flags %#x", uint32(flags))
	}
	if err := CheckName(NameFile, new); err != nil {
		return err
	}
	v.op.Lock()
	defer v.op.Unlock()
	f, err := v.Lookup(old)
	if err != nil {
		return err
	}
	target, err := v.Lookup(new)
	switch {
	case flags == RenameExchange && err != nil:
		return err
	case flags == RenameNoReplace && err == nil:
		return Errorf(syscall.EEXIST, "VM %q has a file %q already", v.Name(), new)
	case target == f:
		return nil
	}
	replaces := target != nil && flags != RenameExchange
	if replaces {
		target.unlink()
	}
	if err := v.commitRename(f, new, target, old, flags, by); err != nil {
		if replaces {
			target.relink()
		}
		return err
	}
	v.mu.Lock()
	v.files[new] = f
	if flags == RenameExchange {
		v.files[old] = target
	} else {
		delete(v.files, old)
	}
	v.attr.Mtime = time.Now().UnixNano()
	v.mu.Unlock()
	f.setName(new)
	if flags == RenameExchange {
		target.setName(old)
	} else if target != nil {
		target.unlinked()
	}
	return nil
}

func (v *VM) commitRename(f *File, new string, target *File, old string, flags RenameFlags, by []Request) error {
	rename := func(tx *blockmap.Tx, f *File, name string) error {
		return edit(tx, catalogKey(tableFile, f.id), func(r *fileRecord) { r.Name = name })
	}
	return v.store.update(v.store.withDone(by, doneRecord{}, func(tx *blockmap.Tx) error {
		if err := rename(tx, f, new); err != nil || target == nil {
			return err
		}
		if flags == RenameExchange {
			return rename(tx, target, old)
		}
		return target.putUnlinked(tx)
	}))
}
