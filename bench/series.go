package main

// Series of measurements, and what can be said of them.

import "slices"

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

// over is how many times another series this one is: the median over the rounds of each round's ratio, if both were
// measured in the same rounds.
func (s series) over(base series) float64 {
	if len(s) != len(base) {
		return s.median() / base.median()
	}
	ratios := make(series, len(s))
	for i := range s {
		ratios[i] = s[i] / base[i]
	}
	return ratios.median()
}
