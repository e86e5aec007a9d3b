package fs

// What changes names: VMs in the root, files in VMs, snapshots in .snapshots. All of it is durable when answered.

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

const permissions = 0o7777

// refuse is why a directory takes no new entry of a kind that it doesn't hold.
func refuse(dir node) error {
	if dir.kind() == kindSnapshot {
		return errReadOnly
	}
	return errNotHere
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir := node(in.NodeId)
	n, err := s.mkdir(dir, name, in)
	if err == nil {
		err = s.entryOut(n, out)
	}
	return s.result(dir, "mkdir", err)
}

func (s *server) mkdir(dir node, name string, in *fuse.MkdirIn) (node, error) {
	switch {
	case dir.kind() == kindRoot:
		if !s.wasDone(&in.InHeader) {
			if _, err := s.store.CreateVM(name, in.Mode&permissions, in.Uid, in.Gid, requestOf(&in.InHeader)); err != nil {
				return 0, err
			}
		}
		s.touchRoot()
		s.log.Add(name, "vm-created")
		return s.lookup(dir, name)
	case dir.kind() == kindSnapDir && dir.vmID() != 0:
		if err := s.changeSnapshot(dir, &in.InHeader, controlCreate, command{names: []string{name}}); err != nil {
			return 0, err
		}
		return s.lookup(dir, name)
	}
	return 0, refuse(dir)
}

// changeSnapshot runs the command that a change of a name in .snapshots stands for.
func (s *server) changeSnapshot(dir node, h *fuse.InHeader, which control, c command) error {
	vm, err := s.vmOf(dir)
	if err != nil {
		return err
	}
	if s.wasDone(h) {
		return s.noteCommand(vm.Name(), which, nil, c.attrs()...)
	}
	c.by = requestOf(h)
	_, err = s.execute(vm, which, c)
	return err
}

// Mknod makes plain files, as mknod(2) may, and nothing else.
func (s *server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	dir := node(in.NodeId)
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return s.result(dir, "mknod", refuse(dir))
	}
	f, err := s.createFile(dir, name, in.Mode, &in.InHeader, true)
	if err == nil {
		err = s.entryOut(fileNode(f.ID()), out)
	}
	return s.result(dir, "mknod", err)
}

func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir := node(in.NodeId)
	f, err := s.createFile(dir, name, in.Mode, &in.InHeader, in.Flags&unix.O_EXCL != 0)
	if err == nil {
		err = s.openFile(f, &in.InHeader, in.Flags, &out.OpenOut)
	}
	if err == nil {
		err = s.entryOut(fileNode(f.ID()), &out.EntryOut)
	}
	return s.result(dir, "create", err)
}

func (s *server) createFile(dir node, name string, mode uint32, h *fuse.InHeader, exclusive bool) (*layer.File, error) {
	if dir.kind() != kindVM {
		return nil, refuse(dir)
	}
	vm, err := s.vmOf(dir)
	if err != nil {
		return nil, err
	}
	if s.wasDone(h) {
		return vm.Lookup(name)
	}
	f, _, err := vm.Create(name, mode&permissions, h.Uid, h.Gid, exclusive, requestOf(h))
	return f, err
}

func (s *server) Symlink(_ <-chan struct{}, h *fuse.InHeader, _, _ string, _ *fuse.EntryOut) fuse.Status {
	return s.result(node(h.NodeId), "symlink", refuse(node(h.NodeId)))
}

func (s *server) Link(_ <-chan struct{}, in *fuse.LinkIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return s.result(node(in.NodeId), "link", refuse(node(in.NodeId)))
}

func (s *server) Tmpfile(_ <-chan struct{}, _ *fuse.CreateIn, _ *fuse.CreateOut) fuse.Status {
	return fuse.ENOTSUP
}

func (s *server) Readlink(_ <-chan struct{}, _ *fuse.InHeader) ([]byte, fuse.Status) {
	return nil, fuse.EINVAL
}

func (s *server) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir := node(h.NodeId)
	return s.result(dir, "unlink", s.unlink(dir, h, name))
}

func (s *server) unlink(dir node, h *fuse.InHeader, name string) error {
	switch dir.kind() {
	case kindVM:
		vm, err := s.vmOf(dir)
		if err != nil {
			return err
		}
		if s.wasDone(h) {
			return nil
		}
		return vm.Unlink(name, requestOf(h))
	case kindSnapshot:
		return errReadOnly
	case kindSnapDir:
		return errControl
	}
	return errDirectory
}

func (s *server) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir := node(h.NodeId)
	return s.result(dir, "rmdir", s.rmdir(dir, h, name))
}

func (s *server) rmdir(dir node, h *fuse.InHeader, name string) error {
	switch {
	case dir.kind() == kindSnapshot:
		return errReadOnly
	case name == layer.SnapDir:
		return layer.Errorf(syscall.EPERM, "%s goes with its VM", layer.SnapDir)
	case dir.kind() == kindRoot:
		return s.removeVM(h, name)
	case dir.kind() == kindSnapDir && dir.vmID() != 0:
		return s.changeSnapshot(dir, h, controlDelete, command{names: []string{name}})
	}
	return errNotDir
}

func (s *server) removeVM(h *fuse.InHeader, name string) (err error) {
	if !s.wasDone(h) {
		err = s.store.RemoveVM(name, requestOf(h))
	}
	if layer.Errno(err) == syscall.ENOTEMPTY {
		return layer.Errorf(syscall.ENOTEMPTY, "%w; `snapfs destroy` removes a VM with all that it has", err)
	}
	if err != nil {
		return err
	}
	s.touchRoot()
	s.log.Add(name, eventRemoved)
	s.log.forget(name)
	return nil
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, old, new string) fuse.Status {
	dir := node(in.NodeId)
	return s.result(dir, "rename", s.rename(dir, in, old, new))
}

func (s *server) rename(dir node, in *fuse.RenameIn, old, new string) error {
	target, flags := node(in.Newdir), in.Flags
	switch {
	case dir.kind() == kindSnapshot || target.kind() == kindSnapshot:
		return errReadOnly
	case old == layer.SnapDir || new == layer.SnapDir:
		return layer.Errorf(syscall.EPERM, "%s stays where it is", layer.SnapDir)
	case flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0:
		return layer.Errorf(syscall.EINVAL, "unknown kind of rename %#x", flags)
	case dir != target && (dir.kind() == kindRoot || target.kind() == kindRoot):
		return errNotHere
	case dir != target:
		return layer.Errorf(syscall.EXDEV, "files stay within their VM, and snapshots in its %s", layer.SnapDir)
	}
	switch dir.kind() {
	case kindRoot:
		return s.renameVM(in, old, new)
	case kindVM:
		vm, err := s.vmOf(dir)
		if err != nil {
			return err
		}
		if s.wasDone(&in.InHeader) {
			return nil
		}
		return vm.Rename(old, new, layer.RenameFlags(flags), requestOf(&in.InHeader))
	case kindSnapDir:
		return s.renameSnapshot(dir, in, old, new)
	}
	return errNotDir
}

func (s *server) renameVM(in *fuse.RenameIn, old, new string) error {
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		return layer.Errorf(syscall.EINVAL, "VMs can't change names with each other")
	}
	if !s.wasDone(&in.InHeader) {
		err := s.store.RenameVM(old, new, in.Flags&unix.RENAME_NOREPLACE != 0, requestOf(&in.InHeader))
		if err != nil {
			return err
		}
	}
	s.touchRoot()
	s.log.rename(old, new)
	s.log.Add(new, eventRenamed, "from", old)
	return nil
}

// renameSnapshot is mv(1) in .snapshots. A snapshot never takes the place of another, whatever the flags.
func (s *server) renameSnapshot(dir node, in *fuse.RenameIn, old, new string) error {
	if _, isControl := controlNamed(dir.vmID(), old); isControl {
		return errControl
	}
	if _, isControl := controlNamed(dir.vmID(), new); isControl {
		return errControl
	}
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		return layer.Errorf(syscall.EINVAL, "snapshots can't change names with each other")
	}
	return s.changeSnapshot(dir, &in.InHeader, controlRename, command{names: []string{old}, to: new})
}
