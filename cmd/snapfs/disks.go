package main

// The disks of a machine that no snapshot of its VM shows.

import (
	"context"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

// monitorTime is how long a monitor has to tell of the disks: it is on this host, and the snapshot does not hang on it.
const monitorTime = time.Second

// checkDisks refuses, by name, a disk that the guest can write to and that lies outside the VM's directory, unless the
// policy excludes a file of its name: a snapshot without it would not be the machine's. EINVAL. A monitor that does
// not tell is a warning.
func (t *taker) checkDisks(v *layer.VM) (warning string, err error) {
	p := v.Policy()
	if p.Quiesce.QMP == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, monitorTime)
	defer cancel()
	disks, err := machineDisks(ctx, p.Quiesce.QMP)
	if err != nil {
		return "not known whether all disks are in the snapshot: " + err.Error(), nil
	}
	dir := filepath.Join(t.mountpoint, v.Name())
	for _, d := range disks {
		if d.ReadOnly || slices.Contains(p.Exclude, filepath.Base(d.File)) || liesIn(d.File, dir) {
			continue
		}
		return "", layer.Errorf(syscall.EINVAL, "disk %s of the machine, %s, is not in the directory of VM %q, so that no snapshot has it; exclude %q by the policy to do without",
			d.Device, d.File, v.Name(), filepath.Base(d.File))
	}
	return "", nil
}

func machineDisks(ctx context.Context, address string) ([]quiesce.Disk, error) {
	q, err := quiesce.DialQMP(ctx, address)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	return q.Disks(ctx)
}

// liesIn says whether a path leads into a directory of the mount. Only if it does not say so itself are symbolic links
// followed: the daemon would ask its own mount.
func liesIn(path, dir string) bool {
	if isWithin(filepath.Clean(path), dir) {
		return true
	}
	real, err := filepath.EvalSymlinks(path)
	return err == nil && isWithin(real, dir)
}
