package blockmap

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// change is one call of Set.
type change struct {
	kind     Kind
	from, to int
}

func drawChanges(t *rapid.T, label string) []change {
	changes := make([]change, rapid.IntRange(0, 5).Draw(t, label))
	for i := range changes {
		changes[i].kind = Kind(rapid.IntRange(int(KindNone), int(KindZero)).Draw(t, label+" kind"))
		changes[i].from, changes[i].to = drawRange(t, label)
	}
	return changes
}

func makeDelta(changes []change) (d Delta) {
	for _, c := range changes {
		d.Set(c.kind, c.from, c.to)
	}
	return d
}

// kinds is a record as anybody would write it.
type kinds [RegionBlocks]Kind

func kindsOf(r *Record) (k kinds) {
	for i := range k {
		switch {
		case r.Data.Has(i):
			k[i] = KindData
		case r.Zero.Has(i):
			k[i] = KindZero
		}
	}
	return k
}

func (k *kinds) change(changes []change) {
	for _, c := range changes {
		for i := c.from; i < c.to; i++ {
			k[i] = c.kind
		}
	}
}

func TestDeltaApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t, "record")
		changes := drawChanges(t, "changes")
		want := kindsOf(&r)
		want.change(changes)

		d := makeDelta(changes)
		require.False(t, d.Data.Intersects(&d.Zero) || d.Data.Intersects(&d.None) || d.Zero.Intersects(&d.None))
		d.Apply(&r)
		require.Equal(t, want, kindsOf(&r))
		require.False(t, r.Data.Intersects(&r.Zero))
		d.Apply(&r)
		require.Equal(t, want, kindsOf(&r), "what is committed and still in the overlay counts once")
	})
}

func TestDeltaOver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		older, newer := drawChanges(t, "older"), drawChanges(t, "newer")
		d, o := makeDelta(newer), makeDelta(older)
		before := o
		d.Over(&o)
		require.Equal(t, makeDelta(append(older, newer...)), d)
		require.Equal(t, before, o, "the older one is left alone")
	})
}

func TestDeltaEmpty(t *testing.T) {
	var d Delta
	require.True(t, d.Empty())
	d.Set(KindNone, 5, 5)
	require.True(t, d.Empty())
	d.Set(KindNone, 5, 6)
	require.False(t, d.Empty(), "to hold nothing any more is a change")
	require.Panics(t, func() { d.Set(KindZero+1, 0, 1) })
}
