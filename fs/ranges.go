package fs

// Ranges of snapshots: A..B is B, what it grew from, and so on back to A. No name has two dots in it.

import (
	"slices"
	"strings"
	"syscall"

	"github.com/snapfs/snapfs/layer"
)

const rangeSign = ".."

func isRange(name string) bool { return strings.Contains(name, rangeSign) }

// ExpandRanges replaces each A..B among names by the snapshots of the list that it stands for, A first, and leaves
// out what was named before. Other names are not looked up. EINVAL for a range without an end, or whose B did not grow
// from A; ENOENT for one whose ends are not there.
func ExpandRanges(list []layer.SnapshotInfo, names []string) ([]string, error) {
	parents := make(map[string]*string, len(list))
	for _, info := range list {
		parents[info.Name] = info.Parent
	}
	var all []string
	seen := make(map[string]bool)
	for _, name := range names {
		run := []string{name}
		if from, to, ok := strings.Cut(name, rangeSign); ok {
			var err error
			if run, err = ancestors(parents, from, to); err != nil {
				return nil, err
			}
		}
		for _, n := range run {
			if !seen[n] {
				all = append(all, n)
			}
			seen[n] = true
		}
	}
	return all, nil
}

// ancestors goes from one snapshot back to another and lists what it meets, both included, oldest first.
func ancestors(parents map[string]*string, from, to string) ([]string, error) {
	if from == "" || to == "" {
		return nil, invalid("a range is A..B, with a snapshot at either end")
	}
	for _, end := range []string{from, to} {
		if _, ok := parents[end]; !ok {
			return nil, layer.Errorf(syscall.ENOENT, "there is no snapshot %q", end)
		}
	}
	run := []string{to}
	for at := to; at != from; {
		parent := parents[at]
		if parent == nil || len(run) > len(parents) {
			return nil, invalid("%s did not grow from %s, so there is no %s%s%s", to, from, from, rangeSign, to)
		}
		at = *parent
		run = append(run, at)
	}
	slices.Reverse(run)
	return run, nil
}
