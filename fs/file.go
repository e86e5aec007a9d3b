package fs

// Open files: OPEN to RELEASE, and what READ and WRITE do.

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// How the kernel treats open files. Disks: no page cache, and it serialises no writes for us. Files of snapshots
// never change, so their pages stay in the cache. Control files: what is read follows what was written, at whatever
// offset. Closing needs no FLUSH, as nothing is kept back.
const (
	diskFlags    = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH
	viewFlags    = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	controlFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_STREAM | fuse.FOPEN_NOFLUSH
)

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return statusOf(s.open(in, out))
}

func (s *server) open(in *fuse.OpenIn, out *fuse.OpenOut) error {
	n := node(in.NodeId)
	switch n.kind() {
	case kindFile:
		f, err := s.store.FileByID(n.fileID())
		if err != nil {
			return err
		}
		return s.openFile(f, &in.InHeader, in.Flags, out)
	case kindView:
		view, err := s.store.ViewByID(n.layerID())
		if err != nil {
			return err
		}
		if writes(in.Flags) {
			return errReadOnly
		}
		out.Fh, out.OpenFlags = handle(&in.InHeader), viewFlags
		return view.Open(layer.Handle(out.Fh))
	case kindControl:
		out.Fh, out.OpenFlags = handle(&in.InHeader), controlFlags
		return s.openControl(n, out.Fh, in.Uid, writes(in.Flags))
	case kindMemory, kindAbout:
		return s.openBeside(n, in, out)
	}
	return errDirectory
}

func (s *server) openFile(f *layer.File, h *fuse.InHeader, flags uint32, out *fuse.OpenOut) error {
	out.Fh, out.OpenFlags = handle(h), diskFlags
	return f.Open(layer.Handle(out.Fh), writes(flags))
}

// writes says whether a file opened with these flags may be written to.
func writes(flags uint32) bool { return flags&syscall.O_ACCMODE != syscall.O_RDONLY }

func (s *server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	switch n := node(in.NodeId); n.kind() {
	case kindFile:
		if f, err := s.store.FileByID(n.fileID()); err == nil {
			f.Close(layer.Handle(in.Fh))
		}
	case kindView:
		if view, err := s.store.ViewByID(n.layerID()); err == nil {
			view.Close(layer.Handle(in.Fh))
		}
	case kindControl:
		s.closeControl(in.Fh)
	case kindMemory:
		if memory, err := s.memory(n); err == nil {
			memory.Close(layer.Handle(in.Fh))
		}
	case kindAbout:
		s.abouts.drop(in.Fh)
	}
}

// read fills p from in.Offset on.
func (s *server) read(in *fuse.ReadIn, p []byte) (int, error) {
	if in.Offset > math.MaxInt64 {
		return 0, errRange
	}
	switch n := node(in.NodeId); n.kind() {
	case kindFile:
		f, err := s.store.FileByID(n.fileID())
		if err != nil {
			return 0, err
		}
		return f.Read(p, int64(in.Offset))
	case kindView:
		view, err := s.store.ViewByID(n.layerID())
		if err != nil {
			return 0, err
		}
		return view.Read(p, int64(in.Offset))
	case kindControl:
		return s.readControl(n, in, p)
	case kindMemory, kindAbout:
		return s.readBeside(n, in, p)
	}
	return 0, errDirectory
}

// tryRead is read that returns layer.ErrWait rather than wait. Either data lies in p, or it is lent.
func (s *server) tryRead(in *fuse.ReadIn, p []byte) (data []byte, lent layer.Loan, err error) {
	if in.Offset > math.MaxInt64 {
		return nil, lent, errRange
	}
	switch n := node(in.NodeId); n.kind() {
	case kindFile:
		f, err := s.store.FileByID(n.fileID())
		if err != nil {
			return nil, lent, err
		}
		return f.TryRead(p, int64(in.Offset))
	case kindView:
		view, err := s.store.ViewByID(n.layerID())
		if err != nil {
			return nil, lent, err
		}
		return view.TryRead(p, int64(in.Offset))
	}
	return nil, lent, layer.ErrWait
}

// write writes all of p at in.Offset. Without wait it may return layer.ErrWait, and nothing is done.
func (s *server) write(in *fuse.WriteIn, p []byte, wait bool) error {
	n := node(in.NodeId)
	switch n.kind() {
	case kindFile:
	case kindControl:
		if !wait {
			return layer.ErrWait
		}
		return s.writeControl(n, in, p)
	default:
		return errReadOnly
	}
	if in.Offset > math.MaxInt64-uint64(len(p)) {
		return errRange
	}
	f, err := s.store.FileByID(n.fileID())
	if err != nil {
		return err
	}
	_, err = f.Write(p, int64(in.Offset), wait)
	return err
}

// through says whether a WRITE is to be on disk when it is answered: so the file was opened, or this one asks for it.
func through(in *fuse.WriteIn) bool {
	return in.Flags&unix.O_DSYNC != 0 && node(in.NodeId).kind() == kindFile
}

// flushWritten follows such a WRITE.
func (s *server) flushWritten(in *fuse.WriteIn) error {
	f, err := s.store.FileByID(node(in.NodeId).fileID())
	if err != nil {
		return err
	}
	return f.Flush(in.Flags&unix.O_SYNC != unix.O_SYNC) // O_SYNC is O_DSYNC and one bit more
}

var errRange = layer.Errorf(syscall.EFBIG, "beyond the largest file")

const fsyncDataOnly = 1 // FUSE_FSYNC_FDATASYNC of linux/fuse.h

// Fsync: from a file, durable when answered. Snapshots' files and control files have nothing that could be lost.
func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n := node(in.NodeId)
	if n.kind() != kindFile {
		return fuse.OK
	}
	f, err := s.store.FileByID(n.fileID())
	if err == nil {
		err = f.Flush(in.FsyncFlags&fsyncDataOnly != 0)
	}
	return s.result(n, "fsync", err)
}

// trySync syncs a file's data if that waits for nothing but the disk. done gets how it ended, perhaps later: layer.ErrWait if it
// has to wait for more.
func (s *server) trySync(n node, done func(error)) {
	if n.kind() != kindFile {
		done(layer.ErrWait)
		return
	}
	f, err := s.store.FileByID(n.fileID())
	if err != nil {
		done(err)
		return
	}
	f.TryFlush(done)
}

// Flush is close(2), for a kernel that does not know it may leave it out.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (s *server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n := node(in.NodeId)
	return s.result(n, "fallocate", s.fallocate(n, in))
}

func (s *server) fallocate(n node, in *fuse.FallocateIn) error {
	if n.kind() != kindFile {
		return layer.Errorf(syscall.EBADF, "only files of a VM have space of their own")
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return errRange
	}
	f, err := s.store.FileByID(n.fileID())
	if err != nil {
		return err
	}
	off, length := int64(in.Offset), int64(in.Length)
	switch in.Mode {
	case 0, unix.FALLOC_FL_KEEP_SIZE:
		return f.Allocate(off, length, in.Mode != 0)
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		return f.Discard(off, length)
	case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		return f.Zero(off, length, in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0)
	}
	return layer.Errorf(syscall.EOPNOTSUPP, "fallocate mode %#x", in.Mode)
}

// Lseek answers SEEK_DATA and SEEK_HOLE; the kernel does the rest by itself.
func (s *server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	off, err := s.seek(node(in.NodeId), in)
	out.Offset = uint64(off)
	return statusOf(err)
}

func (s *server) seek(n node, in *fuse.LseekIn) (int64, error) {
	switch {
	case in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE:
		return 0, layer.Errorf(syscall.EINVAL, "seek whence %d", in.Whence)
	case in.Offset > math.MaxInt64:
		return 0, layer.Errorf(syscall.ENXIO, "beyond the end of the file")
	}
	hole := in.Whence == unix.SEEK_HOLE
	switch n.kind() {
	case kindFile:
		f, err := s.store.FileByID(n.fileID())
		if err != nil {
			return 0, err
		}
		return f.FindExtent(int64(in.Offset), hole)
	case kindView:
		view, err := s.store.ViewByID(n.layerID())
		if err != nil {
			return 0, err
		}
		return view.FindExtent(int64(in.Offset), hole)
	}
	return 0, layer.Errorf(syscall.EINVAL, "no file with data and holes")
}

// Ioctl has none to offer.
func (s *server) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}
