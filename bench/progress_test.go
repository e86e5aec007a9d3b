package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPosition(t *testing.T) {
	p := newProgress(10, true)
	at := func(want float64, what string) { require.InDelta(t, want, p.position(), 1e-9, what) }
	p.begin("reads", 4)
	p.plan(4)
	at(0, "nothing is done")
	p.step("one")
	at(0, "one has begun")
	p.step("two")
	at(0.1, "one is done")
	p.skip(2)
	at(0.3, "two are left out")
	p.done("")
	p.begin("writes", 6)
	p.split(2)
	at(0.4, "a group is done")
	p.next()
	at(0.7, "half of the next one")
	p.plan(1)
	p.step("last")
	p.done("")
	at(0.7+0.3, "all")
}

// A run that is too slow goes on with fewer rounds, one at least.
func TestFewerRoundsWhenLate(t *testing.T) {
	for limit, want := range map[time.Duration]int{0: 4, time.Hour: 4, time.Nanosecond: 1} {
		puts := 0
		b := &bench{scope: newScope(t.TempDir()), form: form{limit: limit}, results: newResults(), progress: newProgress(1, true), began: time.Now()}
		b.progress.begin("reads", 1)
		at := target{peer: raw, put: func(load, time.Duration) sample { puts++; return sample{ops: 1, perSec: 1} }}
		b.compare(comparison{[]target{at}, small("randread", 1), 4})
		require.Equal(t, want, puts, "limit %v", limit)
	}
}
