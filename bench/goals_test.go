package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		goal    goal
		value   float64
		limits  string
		verdict string
	}{
		{goal{asked: 0.8, unit: "×"}, 0.79, "≥ 0.80 ×", "NOT MET"},
		{goal{asked: 0.8, unit: "×"}, 0.8, "≥ 0.80 ×", "met"},
		{goal{asked: 50, most: true, unit: "ms"}, 51, "≤ 50.0 ms", "NOT MET"},
		{goal{asked: 50, most: true, unit: "ms"}, 1, "≤ 50.0 ms", "met"},
		{goal{most: true, unit: "×"}, 1, "", ""},
	} {
		require.Equal(t, c.limits, c.goal.limits())
		require.Equal(t, c.verdict, c.goal.verdict(c.value))
	}
}

// TestLimitBesideGoal has a goal that the kernel keeps everybody from stand beside what a bare loopback reaches.
func TestLimitBesideGoal(t *testing.T) {
	r := newResults()
	for who, value := range map[peer]float64{snapfs: 20, loopback: 10, raw: 100} {
		r.add(row{"synced", synced(8).String(), 0, iops}, who, value)
	}
	g := syncedGoals(synced(8))[0]
	value, ok := g.measure(r)
	require.True(t, ok)
	require.Equal(t, 0.2, value)
	limit, ok := g.limit(r)
	require.True(t, ok)
	require.Equal(t, 0.1, limit)
	require.NotNil(t, syncedGoals(synced(8).each())[0].limit)
	require.Nil(t, syncedGoals(synced(1))[0].limit, "one writer: a file on the host is what it is compared with")
}
