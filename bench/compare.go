package main

// Comparisons: each load on each target in turn, round after round.

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// comparison is a load and who gets it.
type comparison struct {
	targets []target
	load    load
	rounds  int // 0: as many as the form says
}

// compare puts loads on targets, every other round in the opposite order: whatever disturbs, disturbs all of them. Where the
// machine is too slow for all of it to be done in time, there are fewer rounds.
func (b *bench) compare(all ...comparison) {
	for i := range all {
		if all[i].rounds == 0 {
			all[i].rounds = b.rounds
		}
		b.plan(all[i].rounds * len(all[i].targets))
	}
	for _, c := range all {
		for i := range c.rounds {
			if i > 0 && b.late() {
				b.progress.skip((c.rounds - i) * len(c.targets))
				break
			}
			for k := range c.targets {
				if i%2 == 1 {
					k = len(c.targets) - 1 - k
				}
				at := c.targets[k]
				b.step(fmt.Sprintf("%s: %s, depth %d", c.load, at.peer, at.depth))
				b.measure(at, c.load)
			}
		}
	}
}

// late says whether less of the run is done than of its time, by more than what shares of groups are off anyway.
func (b *bench) late() bool {
	const off = 0.03
	return b.limit > 0 && time.Since(b.began).Seconds()/b.limit.Seconds() > b.progress.position()+off
}

// measure puts a load on a target once.
func (b *bench) measure(at target, l load) {
	if l.fresh && at.snapshot != nil {
		at.snapshot()
	}
	if l.writes() {
		b.writeBack()
	}
	if l.reads() && at.warm != nil {
		at.warm() // it may be a minute since its last turn, and there are hosts that take away what nobody uses for so long
	}
	busy := at.busy(b)
	out := at.put(l, b.each)
	note := func(m metric, value float64) {
		b.results.add(row{b.group, l.String(), at.depth, m}, at.peer, value)
	}
	if m := l.metric(); m == throughput {
		note(m, out.perSec*float64(l.block)/mib)
	} else {
		note(m, out.perSec)
	}
	if out.p50 > 0 {
		note(p50, out.p50)
		note(p99, out.p99)
	}
	if at.server != nil {
		note(cpuPerOp, (at.busy(b)-busy)/out.ops)
	}
}

// busy is how many µs the target's server has been running.
func (at target) busy(b *bench) float64 {
	if at.server == nil {
		return 0
	}
	return float64(cpuTime(b.scope, at.server()).Nanoseconds()) / 1e3
}

// writeBack has the host write back what earlier loads left, so that nobody pays for others.
func (b *bench) writeBack() {
	fd, err := unix.Open(b.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(b, err)
	defer unix.Close(fd)
	require.NoError(b, unix.Syncfs(fd))
}
