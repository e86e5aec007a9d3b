package layer

// A store's directory: its lock, and what has to be there. FORMAT, which says what it is, is in version.go.

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names in a store's directory.
const (
	formatName = "FORMAT"
	lockName   = "lock"
	indexName  = "index"
	layersName = "layers"
	// commitsName is the index's counter of commits.
	commitsName = "commits"
)

// storeMode is that of a store's directory.
const storeMode = 0o700

// lockStore takes the store for this process. The lock goes with the process, however it ends.
func lockStore(dir string) (*os.File, error) {
	if what := wrongIn(dir, lockName); what != "" {
		return nil, Errorf(syscall.EIO, "store %s: its %s %s; `snapfs check %[1]s --repair` puts it aside", dir, lockName, what)
	}
	f, err := openFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, Errorf(syscall.EIO, "lock store %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, Errorf(syscall.EBUSY, "store %s is in use by another snapfs; unmount that first", dir)
		}
		return nil, Errorf(syscall.EIO, "lock store %s: %w", dir, err)
	}
	return f, nil
}

// makeStore makes the directory if it is missing, and says whether it is empty, but for what a start leaves that got
// no further than the lock. One with entries and no FORMAT is something else's, and refused.
func makeStore(dir string) (empty bool, err error) {
	if err := makeDirectories(dir); err != nil {
		return false, Errorf(syscall.EIO, "make store %s: %w", dir, err)
	}
	entries, err := readDir(dir)
	if err != nil {
		return false, Errorf(syscall.EIO, "read store %s: %w", dir, err)
	}
	empty = true
	for _, entry := range entries {
		switch entry.Name() {
		case formatName:
			return false, nil
		case lockName, formatName + ".tmp", "lost+found", "log":
		default:
			empty = false
		}
	}
	if !empty && isStoreWithout(dir) {
		return false, lostFormat(dir)
	}
	if !empty {
		return false, Errorf(syscall.EINVAL, "%s is not a snapfs store: it has entries but no %s; name an empty directory, or one that does not exist", dir, formatName)
	}
	return true, nil
}

// makeDirectories makes a directory and those above it, as far as they are missing, durably.
func makeDirectories(dir string) error {
	err := mkdir(dir, os.Mkdir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectories(filepath.Dir(dir)); err != nil {
			return err
		}
		err = mkdir(dir, os.Mkdir)
	}
	switch {
	case err == nil:
		return syncDirectory(filepath.Dir(dir))
	case errors.Is(err, fs.ErrExist):
		return nil
	}
	return err
}

// isStoreWithout says whether a directory has what only a store has, most of it, whatever its FORMAT says.
func isStoreWithout(dir string) bool {
	there := 0
	for _, name := range []string{indexName, layersName, commitsName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			there++
		}
	}
	return there > 1
}

func writeSynced(path string, data []byte) error {
	f, err := openFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if err = faulty("write"); err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, syncFile(f), f.Close())
}

func syncDirectory(dir string) error {
	f, err := openFile(dir, os.O_RDONLY)
	if err != nil {
		return Errorf(syscall.EIO, "sync %s: %w", dir, err)
	}
	if err := errors.Join(syncFile(f), f.Close()); err != nil {
		return Errorf(syscall.EIO, "sync %s: %w", dir, err)
	}
	return nil
}

// findStore refuses what is no store.
func findStore(dir string) error {
	entries, err := readDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return Errorf(syscall.ENOENT, "there is no store %s: %w", dir, err)
	case err != nil:
		return Errorf(syscall.EIO, "read store %s: %w", dir, err)
	case len(entries) == 0:
		return Errorf(syscall.ENOENT, "%s is not a snapfs store: it is empty", dir)
	case slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == formatName }):
		return nil
	case isStoreWithout(dir):
		return lostFormat(dir)
	}
	return Errorf(syscall.EINVAL, "%s is not a snapfs store: it has no %s", dir, formatName)
}

func lostFormat(dir string) error {
	return Errorf(syscall.EINVAL, "store %s has lost its %s; `snapfs check %[1]s --repair` makes it anew", dir, formatName)
}

// verifyParts refuses data files without an index: that is made last, so that this is damage, not newness.
func verifyParts(dir string) error {
	index, layers := filepath.Join(dir, indexName), filepath.Join(dir, layersName)
	if isDirectory(index) {
		return nil
	}
	if what := shapeOf(indexName).away(dir); what != "" {
		return errAway(dir, indexName, what)
	}
	if what := wrongIn(dir, indexName); what != "" {
		return Errorf(syscall.EIO, "store %s is damaged: its %s %s%s", dir, indexName, what, remedy(dir, nil))
	}
	if entries, err := readDir(layers); err == nil && len(entries) > 0 {
		return Errorf(syscall.EIO, "store %s is damaged: it has data files but no %s%s", dir, indexName, remedy(dir, nil))
	}
	return nil
}

// makeParts makes the store's directories, those of a new one.
func makeParts(dir string) error {
	if err := verifyParts(dir); err != nil {
		return err
	}
	if isDirectory(filepath.Join(dir, indexName)) {
		if isDirectory(filepath.Join(dir, layersName)) {
			return nil
		}
		what := cmp.Or(wrongIn(dir, layersName), "is missing, with all data files")
		return Errorf(syscall.EIO, "store %s is damaged: its %s %s; unless that can be brought back, `snapfs check %[1]s --repair` goes on without, and says what is lost", dir, layersName, what)
	}
	for _, name := range []string{layersName, indexName} {
		path := filepath.Join(dir, name)
		if err := mkdir(path, os.Mkdir); err != nil && !errors.Is(err, fs.ErrExist) {
			return Errorf(syscall.EIO, "make %s: %w", path, err)
		}
	}
	return syncDirectory(dir)
}
