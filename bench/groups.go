package main

// The groups of measurements, and how one is run.

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// bench is a run: what it is to do, and what came out.
type bench struct {
	*scope // the present group's
	form
	programs []program
	disks    *disks
	group    string
	results  *results
	progress *progress
	began    time.Time
}

// program is a binary to measure.
type program struct {
	peer peer
	path string
}

// group is measurements that belong together.
type group struct {
	name  string
	what  string
	disks bool     // it puts loads on the disks
	share float64  // of the time of the full run: about as many minutes
	shows []metric // the ones in the main tables; figures has all
	run   func(*bench)
}

// disksShare is the share of making the disks.
const disksShare = 2.0

// groups are in the order in which they run: writes come last of those that use the disks, and leave none.
var groups = []group{
	{"resolution", "Finding a block's layer", false, 1, []metric{perBlock, allocations}, (*bench).resolution},
	{"reads", "Reads", true, 12, []metric{iops, throughput}, (*bench).reads},
	{"depth", "The deepest disk and the one without snapshots, in turn", true, 1, []metric{iops}, (*bench).depth},
	{"memory", "Memory", true, 9, []metric{memory}, (*bench).memories},
	{"synced", "Writes with an fdatasync each", true, 3, []metric{iops}, (*bench).synced},
	{"engines", "Other ways to ask, at depth 0", true, 3, []metric{iops, throughput}, (*bench).engines},
	{"writes", "Writes", true, 13, []metric{iops, throughput}, (*bench).writes},
	{"neighbours", "What one VM feels of another", false, 4, []metric{took, p50, p99, longest, p50Alone, p99Alone, iops}, (*bench).neighbours},
	{"pauses", "Snapshots, while the guest writes", false, 10, []metric{took, p50, p99, longest}, (*bench).pauses},
	{"deletes", "Deleting a snapshot amid others", false, 1, []metric{took, freed, bytesRead, bytesWrote}, (*bench).deletes},
	{"clones", "Clones", false, 0.5, []metric{took}, (*bench).clones},
	{"opens", "Opening many snapshots", false, 2, []metric{took, memory}, (*bench).opens},
}

// runGroup runs one, and says what went wrong.
func (b *bench) runGroup(g group, dir string) error {
	b.scope, b.group = newScope(filepath.Join(dir, g.name)), g.name
	b.temp()
	began := time.Now()
	b.progress.begin(g.what, g.share)
	b.do(func() { g.run(b) })
	b.end()
	problem := b.err()
	if b.disks != nil && problem == nil {
		problem = b.disks.s.err()
	}
	b.progress.done(fmt.Sprintf("%-10s %s", g.name, time.Since(began).Round(100*time.Millisecond)))
	if problem != nil {
		return fmt.Errorf("%s: %w", g.name, problem)
	}
	return nil
}

// runAll runs groups one after the other. One that fails does not keep the others from running, unless they need the
// disks that it uses.
func (b *bench) runAll(all []group, dir string, ran func()) (problems []error) {
	if slices.ContainsFunc(all, func(g group) bool { return g.disks }) {
		s := newScope(filepath.Join(dir, "disks"))
		defer func() {
			s.end()
			if err := s.err(); err != nil && len(problems) == 0 {
				problems = append(problems, err)
			}
		}()
		if err := b.prepare(s, all); err != nil {
			problems = append(problems, err)
		}
	}
	for _, g := range all {
		if g.disks && (b.disks == nil || b.disks.s.Failed()) {
			continue
		}
		if err := b.runGroup(g, dir); err != nil {
			problems = append(problems, err)
		}
		ran()
	}
	return problems
}

// prepare makes the disks that groups want.
func (b *bench) prepare(s *scope, all []group) error {
	depths := []int{0}
	for _, g := range all {
		switch g.name {
		case "reads", "memory":
			depths = append(depths, b.depths...)
		case "depth":
			depths = append(depths, b.ends()...)
		case "writes":
			depths = append(depths, b.writeDepths...)
		}
	}
	slices.Sort(depths)
	depths = slices.Compact(depths)
	began := time.Now()
	b.progress.begin("making disks", disksShare)
	b.progress.plan(len(depths) * (len(b.programs) + 1))
	s.do(func() { b.disks = makeDisks(s, b.form, b.programs, depths, b.progress.step) })
	b.progress.done(fmt.Sprintf("%-10s %s", "disks", time.Since(began).Round(100*time.Millisecond)))
	return s.err()
}

// plan says that so many steps are to come, step that one begins.
func (b *bench) plan(steps int)   { b.progress.plan(steps) }
func (b *bench) step(what string) { b.progress.step(what) }
