package blockmap

// What the index asks of the host's file system beside Badger, which reads and writes through mappings: the places where it
// may fail, made to fail by tests.

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// host, if there is one, is asked before each thing of its kind: read, write, sync, allocate, open, create, unlink, mkdir,
// stat, and view, which is the beginning of a View. Its error is the answer. path is that of the file or directory.
type host func(kind, path string) error

func (h host) ask(kind, path string) error {
	if h == nil {
		return nil
	}
	return h(kind, path)
}

func (h host) open(path string, flags int) (*os.File, error) {
	kind := "open"
	if flags&os.O_CREATE != 0 {
		kind = "create"
	}
	if err := h.ask(kind, path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, flags, 0o600)
}

func (h host) readAt(f *os.File, p []byte, off int64) (int, error) {
	if err := h.ask("read", f.Name()); err != nil {
		return 0, err
	}
	return f.ReadAt(p, off)
}

func (h host) writeAt(f *os.File, p []byte, off int64) error {
	if err := h.ask("write", f.Name()); err != nil {
		return err
	}
	_, err := f.WriteAt(p, off)
	return err
}

func (h host) sync(f *os.File) error {
	if err := h.ask("sync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// dataSync makes a file's content durable.
func (h host) dataSync(f *os.File) error {
	if err := h.ask("sync", f.Name()); err != nil {
		return err
	}
	return unix.Fdatasync(int(f.Fd()))
}

// syncDir makes the names in a directory durable.
func (h host) syncDir(path string) error {
	dir, err := h.open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(h.sync(dir), dir.Close())
}

// allocate has room for the first size bytes of a file, whatever its size is.
func (h host) allocate(f *os.File, size int64) error {
	if err := h.ask("allocate", f.Name()); err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
}

func (h host) stat(path string) (os.FileInfo, error) {
	if err := h.ask("stat", path); err != nil {
		return nil, err
	}
	return os.Stat(path)
}

func (h host) remove(path string) error {
	if err := h.ask("unlink", path); err != nil {
		return err
	}
	return os.Remove(path)
}

func (h host) mkdir(path string) error {
	if err := h.ask("mkdir", path); err != nil {
		return err
	}
	return os.MkdirAll(path, 0o700)
}
