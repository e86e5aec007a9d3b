package main

// What imports and exports leave that were killed, so that they could not clear up: files that they had not finished, and
// snapshots that were to be there for as long as an export. The next command in the same place clears it away.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// partPattern names a file that is not finished. Who writes it holds flock(2) on it.
const partPattern = ".part-snapfs-*"

// A temporary snapshot is known by its name's beginning and its description. Who needs it shares flock(2) on the VM's
// directory, and has a file of it open, so that it can't be deleted.
const (
	temporaryPrefix = "export-"
	temporaryText   = "of a running export, deleted when that ends"
)

// createPart makes a file to be finished.
func createPart(dir string) (*os.File, error) {
	for {
		part, err := os.CreateTemp(dir, partPattern)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(part.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, part.Close(), os.Remove(part.Name()))
		}
		if isAt(part, part.Name()) {
			return part, nil
		}
		part.Close() // somebody took it for a leftover before it was locked
	}
}

func isAt(f *os.File, path string) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	at, err := os.Lstat(path)
	return err == nil && os.SameFile(is, at)
}

// clearParts removes what nobody finishes any more, and says so.
func (a *app) clearParts(dir string) {
	parts, _ := filepath.Glob(filepath.Join(escapeGlob(dir), partPattern))
	for _, path := range parts {
		if removePart(path) == nil {
			fmt.Fprintf(a.stderr, "snapfs: removed %s, which a command that was killed had left\n", oneLine(path))
		}
	}
}

// removePart removes a file unless somebody holds its lock.
func removePart(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	if !isAt(f, path) {
		return os.ErrNotExist
	}
	return os.Remove(path)
}

// escapeGlob has a path mean itself in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// clearTemporary deletes the temporary snapshots of a VM if no export of it is under way, and says so. Until the file that
// it returns is closed, nobody else does.
func (a *app) clearTemporary(vm place) (*os.File, error) {
	dir, err := os.Open(vm.dir)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		a.deleteTemporary(vm)
	}
	_ = unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) // somebody clears away at this moment, which is as well
	return dir, nil
}

func (a *app) deleteTemporary(vm place) {
	all, err := vm.snapshots()
	if err != nil {
		return
	}
	for _, s := range all {
		if !strings.HasPrefix(s.Name, temporaryPrefix) || s.Description != temporaryText {
			continue
		}
		if _, err := vm.do("delete", command{Name: s.Name}); err == nil {
			fmt.Fprintf(a.stderr, "snapfs: deleted snapshot %s, which an export that was killed had left\n", oneLine(s.Name))
		}
	}
}
