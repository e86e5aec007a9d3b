package integration

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// cut is a power loss amid an operation, or right after it.
type cut struct {
	what          string // the operation
	vm            string // that it was about
	before, after map[string]*modelVM
	begun, done   bool // whether any write of it, and whether its answer, came before
}

// allowed are the states that a VM may be found in, nil where it may be missing.
func (c *cut) allowed(name string) []*modelVM {
	before, after := c.before[name], c.after[name]
	switch {
	case c.done:
		return []*modelVM{after}
	case !c.begun:
		return []*modelVM{before}
	case strings.HasPrefix(c.what, "write") && name == c.vm:
		return []*modelVM{after.over(before)}
	case c.what == "truncate" && name == c.vm:
		return []*modelVM{after, before.shrinking(after)}
	default:
		return []*modelVM{after, before}
	}
}

// verify compares a mount with what the power loss may have left.
func (c *cut) verify(t testing.TB, m *mount) error {
	there := names(t, m.dir)
	all := maps.Clone(c.before)
	maps.Copy(all, c.after)
	for _, name := range there {
		if all[name] == nil {
			return fmt.Errorf("VM %s has come from nowhere", name)
		}
	}
	for name := range all {
		if err := c.verifyVM(t, m, name, slices.Contains(there, name)); err != nil {
			return fmt.Errorf("VM %s: %w", name, err)
		}
	}
	return nil
}

func (c *cut) verifyVM(t testing.TB, m *mount, name string, there bool) error {
	var errs []error
	for _, want := range c.allowed(name) {
		err := compareVM(t, m.path(name), there, want)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if after := c.after[name]; there && after != nil && !c.done && (c.what == "revert" || c.what == "commit") {
		finishThinning(t, m.path(name), after)
		return compareVM(t, m.path(name), there, after)
	}
	return errors.Join(errs...)
}

// compareVM says how a VM's directory differs from what a crash may leave of the
// model.
func compareVM(t testing.TB, dir string, there bool, want *modelVM) error {
	if there != (want != nil) {
		return fmt.Errorf("is there: %v, wanted: %v", there, want != nil)
	}
	if !there {
		return nil
	}
	if err := compareSnapshots(t, dir, want); err != nil {
		return err
	}
	if got, want := names(t, dir), slices.Sorted(maps.Keys(want.files)); !slices.Equal(got, want) {
		return fmt.Errorf("files %v, wanted %v", got, want)
	}
	for name, f := range want.files {
		if err := f.admits(readFile(t, dir+"/"+name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func compareSnapshots(t testing.TB, dir string, want *modelVM) error {
	if got := previews(t, dir) != ""; got != (want.hidden != nil) {
		return fmt.Errorf("preview: %v, wanted: %v", got, want.hidden != nil)
	}
	var got, wanted []string
	for _, s := range list(t, dir) {
		parent := ""
		if s.Parent != nil {
			parent = *s.Parent
		}
		got = append(got, fmt.Sprintf("%s over %q %s", s.Name, parent, s.State))
	}
	for _, s := range want.snapshots {
		wanted = append(wanted, fmt.Sprintf("%s over %q ready", s.name, s.parent))
	}
	if !slices.Equal(got, wanted) {
		return fmt.Errorf("snapshots %q, wanted %q", got, wanted)
	}
	for _, s := range want.snapshots {
		if got, want := snapshotFiles(t, dir, s.name), slices.Sorted(maps.Keys(s.files)); !slices.Equal(got, want) {
			return fmt.Errorf("snapshot %s has files %v, wanted %v", s.name, got, want)
		}
		for name, data := range s.files {
			if err := newModelFile(data).admits(readFile(t, snapshotPath(dir, s.name, name))); err != nil {
				return fmt.Errorf("snapshot %s: %s: %w", s.name, name, err)
			}
		}
	}
	return nil
}

// finishThinning deletes what a revert or a commit does not keep any more: that
// comes after it, and the power may fail between.
func finishThinning(t testing.TB, dir string, want *modelVM) {
	for _, name := range snapshotNames(t, dir) {
		if want.find(name) == nil && strings.HasPrefix(name, "before-") {
			mustCommand(t, dir, "delete", name)
		}
	}
}
