package fs

// Directory listings. An open directory keeps the listing that it was opened with, so that what comes and goes
// meanwhile shifts nothing; rewinddir(3) takes a fresh one.

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

// listing is an open directory's entries. Its handle's requests come one at a time: the kernel locks the position.
type listing []fuse.DirEntry

func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	entries, err := s.list(node(in.NodeId))
	if err != nil {
		return statusOf(err)
	}
	out.Fh = handle(&in.InHeader)
	s.listings.put(out.Fh, &entries)
	return fuse.OK
}

func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	entries := s.listings.get(in.Fh)
	if entries == nil || in.Offset == 0 {
		fresh, err := s.list(node(in.NodeId))
		if err != nil {
			return statusOf(err)
		}
		entries = &fresh
		s.listings.put(in.Fh, entries)
	}
	for i := in.Offset; i < uint64(len(*entries)); i++ {
		entry := (*entries)[i]
		entry.Off = i + 1
		if !out.AddDirEntry(entry) {
			break
		}
	}
	return fuse.OK
}

func (s *server) ReleaseDir(in *fuse.ReleaseIn) { s.listings.drop(in.Fh) }

// FsyncDir has nothing to do: what changes a directory is durable when it is answered.
func (s *server) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// list returns a directory's entries, . and .. first.
func (s *server) list(dir node) (listing, error) {
	parent, err := s.parent(dir)
	if err != nil {
		return nil, err
	}
	l := listing{}
	l.add(".", dir)
	l.add("..", parent)
	switch dir.kind() {
	case kindRoot:
		s.listRoot(&l)
		return l, nil
	case kindVM:
		err = s.listVM(dir, &l)
	case kindSnapDir:
		err = s.listSnapDir(dir, &l)
	case kindSnapshot:
		err = s.listSnapshot(dir, &l)
	}
	return l, err
}

func (l *listing) add(name string, n node) {
	mode := uint32(syscall.S_IFDIR)
	switch n.kind() {
	case kindFile, kindView, kindControl, kindMemory, kindAbout:
		mode = syscall.S_IFREG
	}
	*l = append(*l, fuse.DirEntry{Name: name, Ino: uint64(n), Mode: mode})
}

func (s *server) listRoot(l *listing) {
	if s.options.SnapdirVisible {
		l.add(layer.SnapDir, snapDirNode(0))
	}
	for _, vm := range s.store.VMs() {
		l.add(vm.Name(), vmNode(vm.ID()))
	}
}

func (s *server) listVM(dir node, l *listing) error {
	vm, err := s.vmOf(dir)
	if err != nil {
		return err
	}
	if s.options.SnapdirVisible {
		l.add(layer.SnapDir, snapDirNode(vm.ID()))
	}
	for _, entry := range vm.Files() {
		l.add(entry.Name, fileNode(entry.File.ID()))
	}
	return nil
}

func (s *server) listSnapDir(dir node, l *listing) error {
	for _, which := range controlsOf(dir.vmID()) {
		l.add(which.name(), controlNode(dir.vmID(), which))
	}
	if dir.vmID() == 0 {
		return nil
	}
	vm, err := s.vmOf(dir)
	if err != nil {
		return err
	}
	for _, snapshot := range vm.Snapshots() {
		l.add(snapshot.Name(), snapshotNode(snapshot.ID()))
	}
	return nil
}

func (s *server) listSnapshot(dir node, l *listing) error {
	snapshot, err := s.store.SnapshotByID(dir.snapshotID())
	if err != nil {
		return err
	}
	for _, view := range snapshot.Views() {
		l.add(view.Name(), viewNode(view.ID()))
	}
	for _, name := range []string{memoryName, aboutName} {
		if n, err := beside(snapshot, name); err == nil {
			l.add(name, n)
		}
	}
	return nil
}
