package integration

// What TestRandom does with snapshots and VMs, as an operator does.

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"
)

func (r *random) pickSnapshot(vm *modelVM) string {
	if len(vm.snapshots) == 0 {
		return ""
	}
	return vm.snapshots[r.rng.IntN(len(vm.snapshots))].name
}

func (r *random) snapshot(dir string, vm *modelVM) string {
	if len(vm.snapshots) >= 12 {
		return r.withSnapshot(r.delete)(dir, vm)
	}
	r.count++
	name := fmt.Sprint("s", r.count)
	if vm.hidden != nil {
		failCommand(r, syscall.EBUSY, dir, "create", name)
		return "refused during a preview"
	}
	mustCommand(r, dir, "create", name)
	vm.snapshot(name)
	return name
}

// withSnapshot does something with one of the VM's snapshots, if there is any.
func (r *random) withSnapshot(do func(dir string, vm *modelVM, name string) string) func(dir string, vm *modelVM) string {
	return func(dir string, vm *modelVM) string {
		name := r.pickSnapshot(vm)
		if name == "" {
			return "nothing"
		}
		return do(dir, vm, name)
	}
}

func (r *random) delete(dir string, vm *modelVM, name string) string {
	if vm.hidden != nil && vm.head == name {
		failCommand(r, syscall.EBUSY, dir, "delete", name)
		return name + " refused, for it is previewed"
	}
	mustCommand(r, dir, "delete", name)
	vm.delete(name)
	return name
}

func (r *random) rename(dir string, vm *modelVM, from string) string {
	r.count++
	to := fmt.Sprint("s", r.count)
	mustCommand(r, dir, "rename", from+" "+to)
	vm.rename(from, to)
	return from + " to " + to
}

func (r *random) revert(dir string, vm *modelVM, name string) string {
	if vm.hidden != nil {
		failCommand(r, syscall.EBUSY, dir, "revert", name)
		return "refused during a preview"
	}
	if r.rng.IntN(2) == 0 {
		mustCommand(r, dir, "revert", name+" discard=true")
		vm.revert(name, "")
		return name + " discarding"
	}
	mustCommand(r, dir, "revert", name)
	kept := r.newest(dir)
	require.True(r, strings.HasPrefix(kept, "before-revert-"), kept)
	vm.revert(name, kept)
	return name + " keeping " + kept
}

func (r *random) preview(dir string, vm *modelVM, name string) string {
	if vm.hidden != nil {
		failCommand(r, syscall.EBUSY, dir, "preview", name)
		return "refused during another"
	}
	mustCommand(r, dir, "preview", name)
	vm.preview(name)
	return name
}

func (r *random) undo(dir string, vm *modelVM) string {
	return r.endPreview(dir, vm, "undo", func() string {
		vm.undo()
		return ""
	})
}

func (r *random) commit(dir string, vm *modelVM) string {
	return r.endPreview(dir, vm, "commit", func() string {
		kept := r.newest(dir)
		require.True(r, strings.HasPrefix(kept, "before-commit-"), kept)
		vm.commit(kept)
		return "keeping " + kept
	})
}

// endPreview ends a preview one way or the other, if there is one; then is what the model does.
func (r *random) endPreview(dir string, vm *modelVM, control string, then func() string) string {
	if vm.hidden == nil {
		failCommand(r, syscall.EINVAL, dir, control, "\n")
		return "refused, for there is no preview"
	}
	mustCommand(r, dir, control, "\n")
	return then()
}

func (r *random) clone(dir string, vm *modelVM, name string) string {
	if len(r.vms) >= 4 {
		return "nothing"
	}
	r.count++
	clone := fmt.Sprint("vm", r.count)
	mustCommand(r, dir, "clone", name+" to="+clone)
	r.vms[clone] = newModelVM()
	r.vms[clone].show(vm.find(name), "")
	return name + " to " + clone
}

func (r *random) destroy(dir string, vm *modelVM) string {
	if len(r.vms) < 3 || vm.hidden != nil {
		return "nothing"
	}
	mustSnapfs(r, "destroy", dir, "--yes")
	delete(r.vms, r.vm)
	r.vm = pick(r.rng, r.vms)
	return ""
}

func (r *random) newest(dir string) string {
	all := snapshotNames(r, dir)
	require.NotEmpty(r, all)
	return all[len(all)-1]
}

func (r *random) browse(dir string, vm *modelVM) string {
	name := r.pickSnapshot(vm)
	if name == "" {
		return "nothing"
	}
	r.verifySnapshot(dir, vm.find(name))
	return name
}
