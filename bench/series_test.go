package bench

// Series of measurements, and what can be said of them.

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

type series []float64

// quantile returns the value below which a part p of all lie, 0 to 1.
func (s series) quantile(p float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// over divides each value by the one that was measured in the same round.
func (s series) over(base series) series {
	ratios := make(series, len(s))
	for i := range s {
		ratios[i] = s[i] / base[i]
	}
	return ratios
}

// repeat runs a round again and again, for as long as -benchtime says and at least so many times.
func repeat(b *testing.B, rounds int, round func(i int)) {
	i := 0
	for ; b.Loop(); i++ {
		round(i)
	}
	for ; i < rounds; i++ {
		round(i)
	}
	b.ReportMetric(0, "ns/op") // left out: a round is not the operation
}

func TestSeries(t *testing.T) {
	s := series{4, 1, 3, 2}
	require.Equal(t, 2.5, s.median())
	require.Equal(t, 3.0, append(s, 9).median())
	require.Equal(t, 1.0, s.quantile(0))
	require.Equal(t, 3.0, s.quantile(0.5))
	require.Equal(t, 4.0, s.quantile(1))
	require.Equal(t, series{2, 1, 1, 0.5}, s.over(series{2, 1, 3, 4}))
}
