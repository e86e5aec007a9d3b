package layer

// The places where the host's file system may fail, made to fail by tests.

import (
	"os"

	"golang.org/x/sys/unix"
)

// fault, if there is one, is asked before each thing of its kind that is asked of the host: read, write, sync, punch,
// allocate, open, create, unlink, mkdir, rename, readdir, statfs. Its error is the answer. Only tests set it, while no
// store is open.
var fault func(kind string) error

// commitFault stands around each commit of the index: likewise.
var commitFault func(commit func() error) error

func faulty(kind string) error {
	if fault == nil {
		return nil
	}
	return fault(kind)
}

func openAt(dir int, name string, flags int) (int, error) {
	kind := "open"
	if flags&unix.O_CREAT != 0 {
		kind = "create"
	}
	if err := faulty(kind); err != nil {
		return -1, err
	}
	return unix.Openat(dir, name, flags, 0o600)
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
	}
	if err := faulty(kind); err != nil {
		return nil, err
	}
	return os.OpenFile(path, flags, 0o600)
}

// syncFile makes a file durable.
func syncFile(f *os.File) error {
	if err := faulty("sync"); err != nil {
		return err
	}
	return f.Sync()
}

func mkdir(path string, make func(string, os.FileMode) error) error {
	if err := faulty("mkdir"); err != nil {
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
	if err := faulty("rename"); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func statfs(path string, st *unix.Statfs_t) error {
	if err := faulty("statfs"); err != nil {
		return err
	}
	return unix.Statfs(path, st)
}
