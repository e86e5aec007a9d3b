package blockmap

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawBitmap draws a bitmap of a few runs: empty, full, and bits at the edges of words included.
func drawBitmap(t *rapid.T, label string) Bitmap {
	var b Bitmap
	for range rapid.IntRange(0, 4).Draw(t, label+" runs") {
		from, to := drawRange(t, label)
		b.SetRange(from, to)
	}
	return b
}

// drawRange draws a range of blocks of a region, often one that begins or ends at the edge of a word.
func drawRange(t *rapid.T, label string) (from, to int) {
	edge := rapid.OneOf(
		rapid.IntRange(0, RegionBlocks),
		rapid.SampledFrom([]int{0, 1, 63, 64, 65, 128, 512, RegionBlocks - 1, RegionBlocks}))
	from, to = edge.Draw(t, label+" from"), edge.Draw(t, label+" to")
	return min(from, to), max(from, to)
}

// bools is a bitmap as anybody would write it.
type bools [RegionBlocks]bool

func unpack(b *Bitmap) (out bools) {
	for i := range out {
		out[i] = b.Has(i)
	}
	return out
}

func TestBitmapRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Bitmap
		var model bools
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			from, to := drawRange(t, "range")
			set := rapid.Bool().Draw(t, "set")
			if set {
				b.SetRange(from, to)
			} else {
				b.ClearRange(from, to)
			}
			for i := from; i < to; i++ {
				model[i] = set
			}
		}
		require.Equal(t, model, unpack(&b))
		checkCounts(t, &b, &model)
	})
}

// checkCounts compares what a bitmap says of itself with the model.
func checkCounts(t *rapid.T, b *Bitmap, model *bools) {
	count, nextSet, nextClear := 0, RegionBlocks, RegionBlocks
	for i := RegionBlocks - 1; i >= 0; i-- {
		if model[i] {
			count++
			nextSet = i
		} else {
			nextClear = i
		}
		require.Equal(t, nextSet, b.Next(i))
		require.Equal(t, nextClear, b.NextClear(i))
	}
	require.Equal(t, count, b.Count())
	require.Equal(t, count == 0, b.Empty())
	require.Equal(t, count == RegionBlocks, b.Full())
	require.Equal(t, RegionBlocks, b.Next(RegionBlocks))
	require.Equal(t, RegionBlocks, b.NextClear(RegionBlocks))

	var runs Bitmap
	last := -1
	b.Runs(func(from, to int) {
		require.Less(t, last, from, "runs are apart and ascending")
		require.Less(t, from, to)
		runs.SetRange(from, to)
		last = to
	})
	require.Equal(t, *b, runs)
}

func TestBitmapAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawBitmap(t, "a"), drawBitmap(t, "b")
		or, and, andNot, not := a, a, a, a
		or.Or(&b)
		and.And(&b)
		andNot.AndNot(&b)
		not.Not()
		for i := range RegionBlocks {
			require.Equal(t, a.Has(i) || b.Has(i), or.Has(i))
			require.Equal(t, a.Has(i) && b.Has(i), and.Has(i))
			require.Equal(t, a.Has(i) && !b.Has(i), andNot.Has(i))
			require.Equal(t, !a.Has(i), not.Has(i))
		}
		require.Equal(t, !and.Empty(), a.Intersects(&b))
	})
}

func TestBitmapSingleBits(t *testing.T) {
	var b Bitmap
	for _, i := range []int{0, 63, 64, RegionBlocks - 1} {
		b.Set(i)
		require.True(t, b.Has(i))
	}
	require.Equal(t, 4, b.Count())
	b.Clear(63)
	require.False(t, b.Has(63))
	require.Equal(t, 3, b.Count())
}
