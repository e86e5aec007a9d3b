package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSeries(t *testing.T) {
	s := series{4, 1, 3, 2}
	require.Equal(t, 2.5, s.median())
	require.Equal(t, 3.0, append(s, 9).median())
	require.Equal(t, 1.0, s.quantile(0))
	require.Equal(t, 3.0, s.quantile(0.5))
	require.Equal(t, 4.0, s.quantile(1))
	require.Equal(t, 1.0, s.over(series{2, 1, 3, 4}), "of 2, 1, 1 and 0.5")
	require.Equal(t, 2.5, s.over(series{1}), "not of the same rounds")
}

func TestBetter(t *testing.T) {
	r := newResults()
	speed, time := row{metric: iops}, row{metric: took}
	for who, value := range map[peer]float64{snapfs: 20, raw: 10} {
		r.add(speed, who, value)
		r.add(time, who, value)
	}
	times, ok := r.better(speed, raw)
	require.True(t, ok)
	require.Equal(t, 2.0, times)
	times, _ = r.better(time, raw)
	require.Equal(t, 0.5, times)
	_, ok = r.better(speed, loopback)
	require.False(t, ok)
}

// TestImageBenchGoesEverywhere walks as qemu-img bench does.
func TestImageBenchGoesEverywhere(t *testing.T) {
	x := &imageBench{size: 4 * mib}
	l, seen := small("randread", 16), make(map[int64]bool)
	for at := int64(0); !seen[at]; at = (at + x.step(l)) % x.size {
		seen[at] = true
	}
	require.Len(t, seen, 4*mib/blockSize)
}

func TestScope(t *testing.T) {
	s := newScope(t.TempDir())
	var order []string
	s.cleanup(func() { order = append(order, "first") })
	s.do(func() {
		sub := s.sub()
		defer sub.end()
		sub.cleanup(func() { order = append(order, "sub") })
		s.cleanup(func() { order = append(order, "second") })
		require.Empty(sub, "not empty")
		order = append(order, "not reached")
	})
	require.True(t, s.Failed())
	s.end()
	require.Equal(t, []string{"sub", "second", "first"}, order)
	require.NoDirExists(t, s.dir)
}
