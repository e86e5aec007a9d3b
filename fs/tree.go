package fs

// The tree of a VM's snapshots, as people read it:
//
//	web
//	● installed           9 days ago      off    1.2 GiB
//	● before-upgrade      2 days ago      crash  310 MiB  kernel 6.18
//	├─● before-revert-…   1 hour ago      crash   22 MiB
//	● drivers             20 minutes ago  crash  4.0 KiB
//	○ you are here
//
// or during a preview "you are here (preview of drivers)", which undo leaves again. Down a column each state grew from the one above it, so that a long history stays narrow; what else grew from a
// state branches off to the right below it. The branch that leads to the current state is the one that goes on.

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/snapfs/snapfs/layer"
)

// Two more nodes than there are snapshots: before all of them, and the current state.
const (
	origin  = -1
	current = -2
)

// tree is drawn line by line.
type tree struct {
	infos    []layer.SnapshotInfo // oldest first
	here     string               // what the current state is called
	children map[int][]int        // by index in infos, oldest first
	main     map[int]bool         // the states that the current one grew from, and itself
	rows     []row
}

type row struct {
	label string
	of    int // index in infos, or current
}

// drawTree draws the snapshots of a VM, given oldest first, with their ages at now.
func drawTree(vm layer.VMStatus, infos []layer.SnapshotInfo, now time.Time) string {
	t := tree{infos: infos, here: "you are here", children: make(map[int][]int), main: map[int]bool{current: true}}
	if vm.Preview != nil {
		t.here += " (preview of " + printable(*vm.Preview) + ")"
	}
	t.link()
	t.draw(origin, "")
	return printable(vm.VM) + "\n" + t.format(now)
}

// link finds out what grew from what. A parent that is not listed counts as none.
func (t *tree) link() {
	index := make(map[string]int, len(t.infos))
	for i, info := range t.infos {
		index[info.Name] = i
	}
	parents := make([]int, len(t.infos))
	head := origin
	for i, info := range t.infos {
		parents[i] = origin
		if info.Parent != nil {
			if p, listed := index[*info.Parent]; listed {
				parents[i] = p
			}
		}
		t.children[parents[i]] = append(t.children[parents[i]], i)
		if info.Head {
			head = i
		}
	}
	t.children[head] = append(t.children[head], current)
	for i := head; i != origin && !t.main[i]; i = parents[i] {
		t.main[i] = true
	}
}

// draw draws all that grew from a state, below it.
func (t *tree) draw(from int, prefix string) {
	for {
		next, branches := t.split(t.children[from])
		for _, b := range branches {
			t.add(prefix+"├─", b)
			t.draw(b, prefix+"│ ")
		}
		if next == origin {
			return
		}
		t.add(prefix, next)
		from = next
	}
}

// split tells the child that goes on in the same column, or origin if there is none, from those that branch off.
func (t *tree) split(children []int) (next int, branches []int) {
	if len(children) == 0 {
		return origin, nil
	}
	at := len(children) - 1
	for i, child := range children {
		if t.main[child] {
			at = i
		}
	}
	branches = append(branches, children[:at]...)
	return children[at], append(branches, children[at+1:]...)
}

func (t *tree) add(prefix string, of int) {
	label := prefix + "○ " + t.here
	if of != current {
		label = prefix + "● " + printable(t.infos[of].Name)
	}
	t.rows = append(t.rows, row{label, of})
}

// format lines the columns up.
func (t *tree) format(now time.Time) string {
	var name, age, label, size int
	for _, r := range t.rows {
		if r.of == current {
			continue
		}
		info := t.infos[r.of]
		name = max(name, utf8.RuneCountInString(r.label))
		age = max(age, len(ageOf(info, now)))
		label = max(label, len(info.Consistency))
		size = max(size, len(sizeOf(info)))
	}
	var b strings.Builder
	for _, r := range t.rows {
		line := r.label
		if r.of != current {
			info := t.infos[r.of]
			line = fmt.Sprintf("%-*s  %-*s  %-*s  %*s  %s", name, r.label, age, ageOf(info, now),
				label, info.Consistency, size, sizeOf(info), printable(info.Description))
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func ageOf(info layer.SnapshotInfo, now time.Time) string {
	return humanize.RelTime(info.Created, now, "ago", "ahead")
}

func sizeOf(info layer.SnapshotInfo) string { return humanize.IBytes(uint64(max(info.Held, 0))) }

// printable keeps what goes to a terminal on one line and out of its control sequences.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s)
}
