package blockmap

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawFew are changes of a few blocks each, mostly.
func drawFew(t *rapid.T, label string) []change {
	changes := make([]change, rapid.IntRange(0, 9).Draw(t, label))
	for i := range changes {
		from := rapid.IntRange(0, 12).Draw(t, label+" from") * rapid.SampledFrom([]int{1, 1, 80}).Draw(t, label+" apart")
		n := rapid.SampledFrom([]int{1, 1, 1, 2, fewChanges, fewChanges + 1, 30}).Draw(t, label+" blocks")
		changes[i] = change{Kind(rapid.IntRange(int(KindNone), int(KindZero)).Draw(t, label+" kind")), from, min(from+n, RegionBlocks)}
	}
	return changes
}

func makeSparse(changes []change) (s sparse) {
	for _, c := range changes {
		s.set(c.kind, c.from, c.to)
	}
	return s
}

// However it is kept, it is the same change.
func TestSparse(t *testing.T) {
	listed, full := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		older, newer := drawFew(t, "older"), drawFew(t, "newer")
		s, below := makeSparse(newer), makeSparse(older)
		want, under := makeDelta(newer), makeDelta(older)
		require.Equal(t, want, s.delta())
		require.Equal(t, want.Empty(), s.empty())
		if s.all == nil {
			listed++
		} else {
			full++
		}

		kept := s
		s.over(&below)
		want.Over(&under)
		require.Equal(t, want, s.delta())
		require.Equal(t, makeDelta(newer), kept.delta(), "what it was made of is as before")
		require.Equal(t, under, below.delta())

		from := rapid.IntRange(0, RegionBlocks).Draw(t, "from")
		s.forget(from)
		for _, b := range []*Bitmap{&want.Data, &want.Zero, &want.None} {
			b.ClearRange(from, RegionBlocks)
		}
		require.Equal(t, want, s.delta())
		require.Equal(t, want.Empty(), s.empty())
	})
	require.NotZero(t, listed)
	require.NotZero(t, full)
}
