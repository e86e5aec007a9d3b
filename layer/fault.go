package layer

// The places where the host's file system may fail, made to fail by tests.

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fault, if there is one, is asked before each thing of its kind that is asked of the host: read, write, sync, punch, cut,
// allocate, open, create, unlink, mkdir, rename, readdir, statfs. Its error is the answer. Only tests set it, while no
// store is open.
var fault func(kind string) error

// commitFault stands around each commit of the index: likewise.
var commitFault func(commit func() error) error

// noted, if there is one, is told of each name that is about to be made, renamed or removed, and of each file or directory
// that is about to be synced: create, mkdir, rename (to the path), unlink, sync. Likewise.
var noted func(kind, path string)

func faulty(kind string) error {
	if fault == nil {
		return nil
	}
	return fault(kind)
}

// faultyAt is faulty for what is noted, too. It is what the index asks before it asks the host for anything.
func faultyAt(kind, path string) error {
	err := faulty(kind)
	if err == nil && noted != nil {
		noted(kind, path)
	}
	return err
}

// openAt opens a file in dir, which is open itself.
func openAt(dir int, path string, flags int) (int, error) {
	kind := "open"
	if flags&unix.O_CREAT != 0 {
		kind = "create"
	}
	if err := faultyAt(kind, path); err != nil {
		return -1, err
	}
	return unix.Openat(dir, filepath.Base(path), flags, 0o600)
}

func pread(fd int, p []byte, off int64) (int, error) {
	if err := faulty("read"); err != nil {
		return 0, err
	}
	return unix.Pread(fd, p, off)
}

func pwrite(fd int, p []byte, off int64) (int, error) {
	if err := faulty("write"); err != nil {
		return 0, err
	}
	return unix.Pwrite(fd, p, off)
}

// cutOffAt sets a data file's size.
func cutOffAt(fd int, size int64) error {
	if err := faulty("cut"); err != nil {
		return err
	}
	return unix.Ftruncate(fd, size)
}

// dataSync makes a data file's content durable.
func dataSync(fd int) error {
	if err := faulty("sync"); err != nil {
		return err
	}
	return unix.Fdatasync(fd)
}

func openFile(path string, flags int) (*os.File, error) {
	kind := "open"
	if flags&os.O_CREATE != 0 {
		kind = "create"
		flags |= unix.O_NOFOLLOW // nothing of a store's is made behind a link
	}
	if flags&os.O_EXCL == 0 {
		flags |= unix.O_NONBLOCK // what is no file, but a pipe, has nobody wait
	}
	if err := faultyAt(kind, path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, flags, 0o600)
}

// syncFile makes a file durable.
func syncFile(f *os.File) error {
	if err := faultyAt("sync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

func readAt(f *os.File, p []byte, off int64) error {
	if err := faulty("read"); err != nil {
		return err
	}
	_, err := f.ReadAt(p, off)
	return err
}

func writeAt(f *os.File, p []byte, off int64) error {
	if err := faulty("write"); err != nil {
		return err
	}
	_, err := f.WriteAt(p, off)
	return err
}

func removeFile(path string) error {
	if err := faultyAt("unlink", path); err != nil {
		return err
	}
	return os.Remove(path)
}

func mkdir(path string, make func(string, os.FileMode) error) error {
	if err := faultyAt("mkdir", path); err != nil {
		return err
	}
	return make(path, 0o700)
}

func readDir(path string) ([]os.DirEntry, error) {
	if err := faulty("readdir"); err != nil {
		return nil, err
	}
	return os.ReadDir(path)
}

func rename(from, to string) error {
	if err := faultyAt("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// statfs measures the file system of a file, which may be closed meanwhile.
func statfs(f *os.File, st *unix.Statfs_t) error {
	if err := faulty("statfs"); err != nil {
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if failed := conn.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), st) }); failed != nil {
		return failed
	}
	return err
}
