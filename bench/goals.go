package main

// What snapfs must reach.

import (
	"fmt"
	"strings"
)

// goal is a figure that is asked for.
type goal struct {
	what    string
	asked   float64
	most    bool // at most so much, not at least
	unit    string
	measure func(*results) (float64, bool)
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
	at := func(depth int) row { return row{"reads", l.String(), depth, l.metric()} }
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
	all = append(append(all, syncedGoals(1)...), syncedGoals(8)...)
	return append(all, pauseGoals()...)
}

// pauseGoals are for the guest's writes while snapshots are taken, for deleting one, and for memory.
func pauseGoals() []goal {
	return []goal{
		{"p99 of writes while snapshots are taken, in medians of them, the worst of all disks", 5, true, "×", func(r *results) (float64, bool) {
			return r.worst("pauses", p99, func(at row) float64 {
				median := at
				median.metric = p50
				return r.of(at, snapfs).median() / r.of(median, snapfs).median()
			})
		}},
		{"the same p99 of the largest and deepest disk against the smallest without snapshots", 2, true, "×", func(r *results) (float64, bool) {
			rows := r.find("pauses", p99, func(at row) bool { return !strings.Contains(at.work, "dirty") })
			if len(rows) < 2 {
				return 0, false
			}
			return r.of(rows[len(rows)-1], snapfs).median() / r.of(rows[0], snapfs).median(), true
		}},
		{"deleting a snapshot, until it returns", 50, true, "ms", worstOf("deletes", took)},
		{"bytes read for each one freed by deleting", 0.01, true, "", worstOf("deletes", bytesRead)},
		{"bytes written for each one freed by deleting", 0.01, true, "", worstOf("deletes", bytesWrote)},
		{fmt.Sprintf("anonymous memory, the most at any time: 192 MiB and %d for maps", mapMemory), 192 + mapMemory, true, "MiB", worstOf("memory", memory)},
	}
}

// worstOf is for the largest of snapfs's medians.
func worstOf(group string, m metric) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.worst(group, m, func(at row) float64 { return r.of(at, snapfs).median() })
	}
}

func syncedGoals(writers int) []goal {
	l := synced(writers)
	return []goal{
		against(raw, 0.8, "synced", l, 0),
		against(raw, 0.4, "synced", l.after(), 0),
		against(qsdQcow2, 1, "synced", l.after(), 0),
	}
}

// met says whether a goal is reached.
func (g goal) met(value float64) bool {
	if g.most {
		return value <= g.asked
	}
	return value >= g.asked
}
