package main

// What snapfs must reach.

import (
	"fmt"
	"strings"
)

// goal is a figure that is asked for.
type goal struct {
	what    string
	asked   float64 // 0: nothing in particular
	most    bool    // at most so much, not at least
	unit    string
	measure func(*results) (float64, bool)
	limit   func(*results) (float64, bool) // what a bare loopback reaches; nil: no matter
}

// against is a goal for how many times better than a peer snapfs has to be.
func against(peer peer, asked float64, group string, l load, depth int) goal {
	what := fmt.Sprintf("%s, depth %d, against %s", l, depth, peer)
	return goal{what: what, asked: asked, unit: "×", measure: func(r *results) (float64, bool) {
		return r.better(row{group, l.String(), depth, l.metric()}, peer)
	}}
}

// ratio is a goal for two series of any rows.
func ratio(what string, asked float64, of row, x peer, to row, y peer) goal {
	return goal{what: what, asked: asked, unit: "×", measure: func(r *results) (float64, bool) {
		of, to := r.of(of, x), r.of(to, y)
		if of == nil || to == nil {
			return 0, false
		}
		return of.over(to), true
	}}
}

func depthGoal(l load) goal {
	at := func(depth int) row { return row{"depth", l.String(), depth, l.metric()} }
	return ratio(fmt.Sprintf("%s, depth 1000 against depth 0", l), 0.9, at(1000), snapfs, at(0), snapfs)
}

func goals() []goal {
	read16, read1, write16 := small("randread", 16), small("randread", 1), small("randwrite", 16)
	all := []goal{
		against(qsdQcow2, 1.5, "reads", read16, 0),
		against(qsdQcow2, 1.2, "writes", write16, 0),
		against(qsdQcow2, 1.5, "reads", read1, 0),
		against(qsdQcow2, 1.0, "reads", sequential("read"), 0),
		against(qsdQcow2, 1.0, "writes", sequential("write"), 0),
		against(qsdRaw, 1.5, "reads", read16, 0),
		against(qsdRaw, 0.8, "reads", read1, 0),
		against(qsdQcow2, 5, "reads", read16, 60),
		against(qsdQcow2, 50, "reads", read16, 500),
		depthGoal(read1),
		depthGoal(read16),
		against(qcow2, 1, "reads", read16, 1),
		against(qcow2, 5, "reads", read16, 100),
	}
	for _, l := range []load{synced(1), grouped(8), synced(8), synced(8).each()} {
		all = append(all, syncedGoals(l)...)
	}
	return append(all, pauseGoals()...)
}

// pauseGoals are for the guest's writes while snapshots are taken, for deleting one, and for memory.
func pauseGoals() []goal {
	return []goal{
		{what: "p99 of writes while snapshots are taken, in medians of them, the worst of all disks", asked: 5, most: true, unit: "×",
			measure: func(r *results) (float64, bool) {
				return r.worst("pauses", p99, snapshotting, func(at row) float64 { return r.relative(at, row{at.group, at.work, at.depth, p50}) })
			}},
		{what: "the same p99 against that without snapshots, the worst of all disks", most: true, unit: "×",
			measure: func(r *results) (float64, bool) {
				return r.worst("pauses", p99, snapshotting, func(at row) float64 { return r.relative(at, row{at.group, at.work + alone, at.depth, p99}) })
			}},
		{what: "the same p99 of the largest and deepest disk against the smallest without snapshots", asked: 2, most: true, unit: "×",
			measure: func(r *results) (float64, bool) {
				rows := r.find("pauses", p99, func(at row) bool { return snapshotting(at) && !strings.Contains(at.work, "dirty") })
				if len(rows) < 2 {
					return 0, false
				}
				return r.relative(rows[len(rows)-1], rows[0]), true
			}},
		{what: "deleting a snapshot, until it returns", asked: 50, most: true, unit: "ms", measure: worstOf("deletes", took)},
		{what: "bytes read for each one freed by deleting", asked: 0.01, most: true, measure: worstOf("deletes", bytesRead)},
		{what: "bytes written for each one freed by deleting", asked: 0.01, most: true, measure: worstOf("deletes", bytesWrote)},
		{what: fmt.Sprintf("anonymous memory, the most at any time: 192 MiB and %d for maps", mapMemory), asked: 192 + mapMemory, most: true, unit: "MiB",
			measure: worstOf("memory", memory)},
	}
}

// snapshotting says whether a row of pauses is one with snapshots.
func snapshotting(at row) bool { return !strings.HasSuffix(at.work, alone) }

func anyRow(row) bool { return true }

// worstOf is for the largest of snapfs's medians.
func worstOf(group string, m metric) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.worst(group, m, anyRow, func(at row) float64 { return r.of(at, snapfs).median() })
	}
}

// syncedGoals are for writes with an fdatasync each. What several writers get through FUSE is limited by more than the
// daemon, most of all on one disk, where the kernel sends one FSYNC at a time: so what a bare loopback does stands beside.
func syncedGoals(l load) []goal {
	settled, fresh := against(raw, 0.8, "synced", l, 0), against(raw, 0.4, "synced", l.after(), 0)
	if l.jobs > 1 {
		settled.limit, fresh.limit = loopbackLimit(l), loopbackLimit(l.after())
	}
	all := []goal{settled, fresh}
	if l.engine == "psync" {
		all = append(all, against(qsdQcow2, 1, "synced", l.after(), 0))
	}
	return all
}

// loopbackLimit is how a bare loopback compares with a file on the host.
func loopbackLimit(l load) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.times(row{"synced", l.String(), 0, l.metric()}, loopback, raw)
	}
}

// verdict says whether a goal is reached.
func (g goal) verdict(value float64) string {
	switch {
	case g.asked == 0:
		return ""
	case g.most && value <= g.asked, !g.most && value >= g.asked:
		return "met"
	}
	return "NOT MET"
}

// limits says what is asked for.
func (g goal) limits() string {
	switch {
	case g.asked == 0:
		return ""
	case g.most:
		return "≤ " + number(g.asked) + " " + g.unit
	}
	return "≥ " + number(g.asked) + " " + g.unit
}
