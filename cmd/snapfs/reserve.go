package main

// The least reserve: a mount that begins anew never has less than it takes to open the store after a crash on a full disk.
// One that goes on keeps what it runs with: guests that use what is left above that must not be stopped by an upgrade.

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// raiseReserve raises a reserve that is too small, and says so.
func (a *app) raiseReserve(spec *mountSpec) error {
	total, err := fileSystemSize(spec.store)
	if err != nil {
		return fmt.Errorf("measure the file system of %s: %w", spec.store, err)
	}
	n := layer.Reserve(spec.reserve).Of(total)
	if n >= layer.LeastReserve {
		return nil
	}
	spec.reserve = reserveFlag{Bytes: layer.LeastReserve}
	fmt.Fprintf(a.stderr, "snapfs: a reserve of %s would be too little to open the store after a crash on a full disk: it is %s\n", showSize(n), showSize(layer.LeastReserve))
	return nil
}

// fileSystemSize is that of the file system of a path of which the last elements may not exist yet, in bytes.
func fileSystemSize(path string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, fs.ErrNotExist) && path != "/" {
		return fileSystemSize(filepath.Dir(path))
	}
	return int64(st.Blocks) * st.Bsize, err
}
