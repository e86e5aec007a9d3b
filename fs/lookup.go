package fs

// Names in directories: LOOKUP, and where each kind of node stands in the tree.

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	n, err := s.lookup(node(h.NodeId), name)
	if err == nil {
		err = s.entryOut(n, out)
	}
	return statusOf(err)
}

// lookup finds a name in a directory.
func (s *server) lookup(dir node, name string) (node, error) {
	switch dir.kind() {
	case kindRoot:
		if name == layer.SnapDir {
			return snapDirNode(0), nil
		}
		vm, err := s.store.VM(name)
		if err != nil {
			return 0, err
		}
		return vmNode(vm.ID()), nil
	case kindVM:
		return s.lookupInVM(dir, name)
	case kindSnapDir:
		return s.lookupInSnapDir(dir, name)
	case kindSnapshot:
		snapshot, err := s.store.SnapshotByID(dir.snapshotID())
		if err != nil {
			return 0, err
		}
		if n, err := beside(snapshot, name); n != 0 || err != nil {
			return n, err
		}
		view, err := snapshot.View(name)
		if err != nil {
			return 0, err
		}
		return viewNode(view.ID()), nil
	}
	return 0, errNotDir
}

func (s *server) lookupInVM(dir node, name string) (node, error) {
	vm, err := s.vmOf(dir)
	if err != nil {
		return 0, err
	}
	if name == layer.SnapDir {
		return snapDirNode(vm.ID()), nil
	}
	f, err := vm.Lookup(name)
	if err != nil {
		return 0, err
	}
	return fileNode(f.ID()), nil
}

func (s *server) lookupInSnapDir(dir node, name string) (node, error) {
	if which, ok := controlNamed(dir.vmID(), name); ok {
		return controlNode(dir.vmID(), which), nil
	}
	if dir.vmID() == 0 {
		return 0, errNoEntry
	}
	vm, err := s.vmOf(dir)
	if err != nil {
		return 0, err
	}
	snapshot, err := vm.Snapshot(name)
	if err != nil {
		return 0, err
	}
	return snapshotNode(snapshot.ID()), nil
}

// parent is what .. means in a directory.
func (s *server) parent(dir node) (node, error) {
	switch dir.kind() {
	case kindRoot, kindVM:
		return rootNode, nil
	case kindSnapDir:
		if dir.vmID() == 0 {
			return rootNode, nil
		}
		return vmNode(dir.vmID()), nil
	case kindSnapshot:
		snapshot, err := s.store.SnapshotByID(dir.snapshotID())
		if err != nil {
			return 0, err
		}
		return snapDirNode(snapshot.VM().ID()), nil
	}
	return 0, errNotDir
}
