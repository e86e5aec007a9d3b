package fs

// Attributes: GETATTR, SETATTR, STATFS.

import (
	"math"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

// keepTimeout is for how long the kernel may keep the little that changes only through the kernel itself, or never:
// the names of VMs and .snapshots, and the attributes of snapshots' files. Without these each read(2) from the page
// cache would ask for the size first.
const keepTimeout = time.Hour

const (
	readOnly    = 0o555
	ownerWrites = 0o755
)

// uncounted is the number of links of directories with many others in them, and says that nobody counted: each step
// of a path asks for it.
const uncounted = 1

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return statusOf(s.attrOut(node(in.NodeId), out))
}

// attrOut fills in the answer to GETATTR and SETATTR.
func (s *server) attrOut(n node, out *fuse.AttrOut) error {
	if err := s.attr(n, &out.Attr); err != nil {
		return err
	}
	if n.kind() == kindView || n.kind() == kindMemory {
		out.SetTimeout(keepTimeout)
	}
	return nil
}

// entryOut fills in the answer to LOOKUP, MKDIR and CREATE.
func (s *server) entryOut(n node, out *fuse.EntryOut) error {
	if err := s.attr(n, &out.Attr); err != nil {
		return err
	}
	out.NodeId = uint64(n)
	switch n.kind() {
	case kindView, kindMemory:
		out.SetAttrTimeout(keepTimeout)
	case kindVM, kindSnapDir:
		out.SetEntryTimeout(keepTimeout)
	}
	return nil
}

// attr fills in what stat(2) shows of n.
func (s *server) attr(n node, out *fuse.Attr) error {
	a, err := s.nodeAttr(n)
	if err != nil {
		return err
	}
	*out = fuse.Attr{
		Ino:     uint64(n),
		Size:    uint64(a.Size),
		Blocks:  a.Blocks,
		Mode:    a.Mode,
		Nlink:   a.Nlink,
		Owner:   fuse.Owner{Uid: a.UID, Gid: a.GID},
		Blksize: pageSize,
	}
	out.SetTimes(&a.Atime, &a.Mtime, &a.Ctime)
	return nil
}

// nodeAttr returns n's attributes, the type of file in the mode.
func (s *server) nodeAttr(n node) (layer.Attr, error) {
	switch n.kind() {
	case kindRoot:
		return s.rootAttr(), nil
	case kindVM:
		return s.vmAttr(n)
	case kindFile:
		f, err := s.store.FileByID(n.fileID())
		if err != nil {
			return layer.Attr{}, err
		}
		a := f.Attr()
		a.Mode |= syscall.S_IFREG
		return a, nil
	case kindSnapDir:
		return s.snapDirAttr(n)
	case kindSnapshot:
		return s.snapshotAttr(n)
	case kindView:
		view, err := s.store.ViewByID(n.layerID())
		if err != nil {
			return layer.Attr{}, err
		}
		a := view.Attr()
		a.Mode = syscall.S_IFREG | a.Mode&readOnly
		return a, nil
	case kindControl:
		return s.controlAttr(n)
	case kindMemory:
		return s.memoryAttr(n)
	case kindAbout:
		return s.aboutAttr(n)
	}
	return layer.Attr{}, errStale
}

// rootAttr is the mount's directory: that of whom the daemon runs as.
func (s *server) rootAttr() layer.Attr {
	changed := time.Unix(0, s.rootChanged.Load())
	return layer.Attr{
		Mode:  syscall.S_IFDIR | ownerWrites,
		UID:   uint32(os.Geteuid()),
		GID:   uint32(os.Getegid()),
		Atime: changed, Mtime: changed, Ctime: changed,
		Nlink: uncounted,
	}
}

func (s *server) vmAttr(n node) (layer.Attr, error) {
	vm, err := s.vmOf(n)
	if err != nil {
		return layer.Attr{}, err
	}
	a := vm.Attr()
	a.Mode |= syscall.S_IFDIR
	a.Nlink = uint32(2 + s.listedSnapDir())
	return a, nil
}

// listedSnapDir is how many directories called .snapshots a directory shows.
func (s *server) listedSnapDir() int {
	if s.options.SnapdirVisible {
		return 1
	}
	return 0
}

// snapDirAttr is .snapshots: the VM directory's, but only the owner may make and remove snapshots.
func (s *server) snapDirAttr(n node) (layer.Attr, error) {
	if n.vmID() == 0 {
		a := s.rootAttr()
		a.Mode = syscall.S_IFDIR | readOnly
		return a, nil
	}
	vm, err := s.vmOf(n)
	if err != nil {
		return layer.Attr{}, err
	}
	a := vm.Attr()
	a.Mode = syscall.S_IFDIR | a.Mode&ownerWrites
	a.Size, a.Blocks, a.Nlink = 0, 0, uncounted
	return a, nil
}

// snapshotAttr is a snapshot's directory: the VM directory's without any right to write.
func (s *server) snapshotAttr(n node) (layer.Attr, error) {
	snapshot, err := s.store.SnapshotByID(n.snapshotID())
	if err != nil {
		return layer.Attr{}, err
	}
	a := snapshot.VM().Attr()
	a.Mode = syscall.S_IFDIR | a.Mode&readOnly
	a.Size, a.Blocks, a.Nlink = 0, 0, 2
	a.Atime, a.Mtime, a.Ctime = snapshot.Created(), snapshot.Created(), snapshot.Created()
	return a, nil
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := node(in.NodeId)
	if err := s.setAttr(n, in); err != nil {
		return s.result(n, "setattr", err)
	}
	return statusOf(s.attrOut(n, out))
}

func (s *server) setAttr(n node, in *fuse.SetAttrIn) error {
	switch n.kind() {
	case kindSnapshot, kindView, kindMemory, kindAbout:
		return errReadOnly
	case kindRoot, kindSnapDir:
		return s.setFixed(n, in)
	case kindControl:
		if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
			return errControl
		}
		return nil // O_TRUNC, touch(1)
	}
	change, err := changes(in)
	if err != nil {
		return err
	}
	if n.kind() == kindVM {
		vm, err := s.vmOf(n)
		if err != nil {
			return err
		}
		_, err = vm.SetAttr(change)
		return err
	}
	f, err := s.store.FileByID(n.fileID())
	if err != nil {
		return err
	}
	_, err = f.SetAttr(change)
	return err
}

// setFixed is for directories whose attributes follow from others: they may be set to what they are.
func (s *server) setFixed(n node, in *fuse.SetAttrIn) error {
	is, err := s.nodeAttr(n)
	if err != nil {
		return err
	}
	mode, setMode := in.GetMode()
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	same := (!setMode || mode == is.Mode&permissions) && (!setUID || uid == is.UID) && (!setGID || gid == is.GID)
	if !same || in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		return layer.Errorf(syscall.EPERM, "this directory's attributes are not its own")
	}
	return nil
}

// changes says in the store's words what a SETATTR asks for.
func changes(in *fuse.SetAttrIn) (layer.SetAttr, error) {
	var c layer.SetAttr
	if mode, ok := in.GetMode(); ok {
		c.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if t, ok := in.GetATime(); ok {
		c.Atime = &t
	}
	if t, ok := in.GetMTime(); ok {
		c.Mtime = &t
	}
	if size, ok := in.GetSize(); ok {
		if size > math.MaxInt64 {
			return c, layer.Errorf(syscall.EFBIG, "a file can't have %d bytes", size)
		}
		n := int64(size)
		c.Size = &n
	}
	return c, nil
}

// StatFs shows the store's file system: what may be written is what lies above the reserve.
func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	stats := s.store.Stats()
	*out = fuse.StatfsOut{
		Blocks:  uint64(stats.Total) / pageSize,
		Bfree:   uint64(stats.Free) / pageSize,
		Bavail:  uint64(max(stats.Avail, 0)) / pageSize,
		Bsize:   pageSize,
		Frsize:  pageSize,
		NameLen: 255,
	}
	return fuse.OK
}
