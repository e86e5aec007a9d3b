package main

// What a VM's monitor tells of the machine before a snapshot: whether it runs, what it is, and whether it has disks that
// no snapshot shows.

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

// monitorTime is how long a monitor has to tell: it is on this host, and the snapshot does not hang on it.
const monitorTime = time.Second

const unknownDisks = "not known whether all disks are in the snapshot: "

// look asks the monitor that the policy names. One that does not tell is a warning, or if no guest seems to run no
// wonder.
func (a *attempt) look() error {
	if a.policy.QMP == "" {
		return nil
	}
	machine, err := describe(a.ctx, a.policy.QMP)
	switch {
	case err != nil && a.running:
		a.warn(unknownDisks + err.Error())
		return nil
	case quiesce.Gone(err):
		a.request.Running = new(bool)
		return nil
	case err != nil:
		return nil
	}
	a.ram = machine.RAM()
	if state, err := machine.RunState(); err == nil {
		a.request.Running = &state.Running
	}
	a.keep(machine)
	if a.request.Files == nil { // else somebody chose what is in it
		return a.checkDisks(machine)
	}
	return nil
}

func describe(ctx context.Context, address string) (quiesce.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTime)
	defer cancel()
	q, err := quiesce.DialQMP(ctx, address)
	if err != nil {
		return quiesce.Machine{}, err
	}
	defer q.Close()
	return q.Machine(ctx)
}

// keep has the description kept with the snapshot. What can get long in it are the disks.
func (a *attempt) keep(machine quiesce.Machine) {
	text, err := json.Marshal(machine)
	if len(text) > layer.MaxMachine {
		a.warn("the machine's disks are not described: there are too many")
		machine.Block = nil
		text, err = json.Marshal(machine)
	}
	if err == nil && len(text) <= layer.MaxMachine {
		a.request.Machine = text
	}
}

// checkDisks refuses, by name, a disk that the guest can write to and that is no file of the VM, unless the policy
// excludes a file of its name: a snapshot without it would not be the machine's. EINVAL.
func (a *attempt) checkDisks(machine quiesce.Machine) error {
	disks, err := machine.Disks()
	if err != nil {
		a.warn(unknownDisks + err.Error())
		return nil
	}
	v := a.vm
	exclude, dir := v.Policy().Exclude, filepath.Join(a.mountpoint, v.Name())
	for _, d := range disks {
		path := d.File
		if !filepath.IsAbs(path) && machine.Dir != "" {
			path = filepath.Join(machine.Dir, path)
		}
		if d.ReadOnly || slices.Contains(exclude, filepath.Base(path)) || isFileOf(v, dir, path) {
			continue
		}
		if !filepath.IsAbs(path) {
			return layer.Errorf(syscall.EINVAL, "disk %s of the machine, %s, is not known to be in the directory of VM %q: start QEMU with the full path of the disk, or exclude %q by the policy to do without",
				d.Device, path, v.Name(), filepath.Base(path))
		}
		return layer.Errorf(syscall.EINVAL, "disk %s of the machine, %s, is not in the directory of VM %q, so that no snapshot has it; exclude %q by the policy to do without",
			d.Device, path, v.Name(), filepath.Base(path))
	}
	return nil
}

// isFileOf says whether a path leads to a file in a VM's directory. Only if it does not say so itself are symbolic links
// and other mounts followed: the daemon asks its own mount then.
func isFileOf(v *layer.VM, dir, path string) bool {
	if filepath.Dir(filepath.Clean(path)) == dir {
		return true
	}
	disk, err := os.Stat(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(v.Files(), func(e layer.FileEntry) bool {
		file, err := os.Stat(filepath.Join(dir, e.Name))
		return err == nil && os.SameFile(disk, file)
	})
}
