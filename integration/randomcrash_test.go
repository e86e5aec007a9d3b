package integration

// How TestRandom crashes, and what it finds out after that.

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (r *random) remount(string, *modelVM) string {
	r.m.remount()
	r.verify()
	return ""
}

func (r *random) crash(string, *modelVM) string {
	if r.lose == nil {
		return "nothing"
	}
	r.lose()
	r.m.start()
	r.reconcile()
	return ""
}

// crashAmid has the crash come while the daemon does what a command asks for: all
// of that must have happened, or nothing.
func (r *random) crashAmid(dir string, vm *modelVM) string {
	if r.lose == nil {
		return "nothing"
	}
	control, line := r.pickCommand(vm)
	f, err := os.OpenFile(snapshotPath(dir, control), os.O_WRONLY, 0)
	require.NoError(r, err)
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteString(line + "\n")
		done <- err
	}()
	time.Sleep(time.Duration(r.rng.IntN(8000)) * time.Microsecond)
	r.lose()
	answered := <-done == nil
	f.Close() // the daemon is dead; there is nobody to tell
	r.m.start()
	happened := r.happened(dir, vm, control, line)
	require.True(r, happened || !answered, "%s %s was answered, and is forgotten", control, line)
	if happened {
		r.adopt(dir, vm, control, line)
	}
	r.reconcile()
	return fmt.Sprint(control, " ", line, " happened: ", happened)
}

// pickCommand chooses one that would succeed.
func (r *random) pickCommand(vm *modelVM) (control, line string) {
	if vm.hidden != nil {
		return []string{"undo", "commit"}[r.rng.IntN(2)], ""
	}
	if name := r.pickSnapshot(vm); name != "" && r.rng.IntN(4) > 0 {
		return []string{"delete", "revert", "preview"}[r.rng.IntN(3)], name
	}
	r.count++
	return "create", fmt.Sprint("s", r.count)
}

// happened finds out whether a command was carried out.
func (r *random) happened(dir string, vm *modelVM, control, line string) bool {
	now := snapshotNames(r, dir)
	switch control {
	case "create":
		return slices.Contains(now, line)
	case "delete":
		return !slices.Contains(now, line)
	case "revert":
		return len(now) > 0 && vm.find(now[len(now)-1]) == nil
	case "preview":
		return previews(r, dir) != ""
	default: // undo, commit
		return previews(r, dir) == ""
	}
}

// previews is the snapshot under preview, if there is one.
func previews(t testing.TB, dir string) string {
	var status struct{ Preview string }
	require.NoError(t, json.Unmarshal(readFile(t, snapshotPath(dir, "status")), &status))
	return status.Preview
}

// adopt has the model do what the daemon had done when it crashed. Of what a
// revert or a commit does at its end, to delete the oldest of the states left
// behind, it may not have got to that.
func (r *random) adopt(dir string, vm *modelVM, control, line string) {
	switch control {
	case "create":
		vm.snapshot(line)
	case "delete":
		vm.delete(line)
	case "revert":
		vm.revert(line, r.newest(dir))
	case "preview":
		vm.preview(line)
	case "undo":
		vm.undo()
	case "commit":
		vm.commit(r.newest(dir))
	}
	for _, name := range snapshotNames(r, dir) {
		if vm.find(name) == nil {
			mustCommand(r, dir, "delete", name)
		}
	}
}

// reconcile takes stock after a crash.
func (r *random) reconcile() {
	for name, vm := range r.vms {
		dir := r.m.path(name)
		require.Equal(r, slices.Sorted(maps.Keys(vm.files)), slices.Sorted(slices.Values(names(r, dir))))
		for n, f := range vm.files {
			require.NoError(r, f.crash(readFile(r, filepath.Join(dir, n))), "%s/%s", name, n)
		}
	}
	r.verify()
}
