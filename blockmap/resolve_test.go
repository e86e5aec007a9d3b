package blockmap

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// modelLayer is all that is known of one layer in one region.
type modelLayer struct {
	id      LayerID
	record  Record
	delta   *Delta
	cuts    []Cut
	lineage LineageID
}

// says returns what the layer itself says of a block of the region, and whether anything below it may show.
func (l *modelLayer) says(region uint64, i int) (k Kind, below bool) {
	rec := l.record
	if l.delta != nil {
		l.delta.Apply(&rec)
	}
	k, below = kindsOf(&rec)[i], true
	for _, c := range l.cuts {
		if region*RegionBlocks+uint64(i) >= c.Block {
			below = false
			if c.Void {
				k = KindNone
			}
		}
	}
	return k, below
}

// naiveOwners walks down the layers for each block on its own.
func naiveOwners(layers []modelLayer, region uint64) (out Owners) {
	for i := range out {
		for _, l := range layers {
			k, below := l.says(region, i)
			if k == KindData {
				out[i] = l.id
			}
			if k != KindNone || !below {
				break
			}
		}
	}
	return out
}

// drawLayers draws the layers of a chain, newest first.
func drawLayers(t *rapid.T, region uint64) []modelLayer {
	layers := make([]modelLayer, rapid.IntRange(0, 6).Draw(t, "layers"))
	id, lineage := LayerID(1000), LineageID(1000)
	for i := range layers {
		id -= LayerID(rapid.IntRange(1, 3).Draw(t, "step"))
		if rapid.Bool().Draw(t, "branches") {
			lineage--
		}
		l := &layers[i]
		l.id, l.lineage = id, lineage
		if rapid.Bool().Draw(t, "has a record") {
			l.record = drawRecord(t, "record")
		}
		if rapid.Bool().Draw(t, "has a delta") {
			d := makeDelta(drawChanges(t, "delta"))
			l.delta = &d
		}
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "cuts") {
			at := region*RegionBlocks + rapid.Uint64Range(0, 3*RegionBlocks).Draw(t, "cut")
			at -= min(at, RegionBlocks)
			l.cuts = append(l.cuts, Cut{Layer: id, Block: at, Void: rapid.Bool().Draw(t, "void")})
		}
	}
	return layers
}

// parts returns what a resolution is given beside the records.
func parts(layers []modelLayer) (cuts []Cut, overlay []LayerDelta) {
	for _, l := range layers {
		cuts = append(cuts, l.cuts...)
		if l.delta != nil {
			overlay = append(overlay, LayerDelta{l.id, *l.delta})
		}
	}
	return cuts, overlay
}

// resolverIsNaive: the merge finds what the walk finds.
func resolverIsNaive(t *rapid.T) {
	region := rapid.Uint64Range(0, 3).Draw(t, "region")
	layers := drawLayers(t, region)
	cuts, overlay := parts(layers)
	out := Owners{5, 6, 7} // from an earlier use
	r := newResolver(region, cuts, overlay, &out)
	for _, l := range layers {
		if rec := l.record; !rec.Empty() && !r.add(l.id, &rec) {
			break
		}
	}
	r.finish()
	require.Equal(t, naiveOwners(layers, region), out)
}

func TestResolver(t *testing.T) { rapid.Check(t, resolverIsNaive) }

func FuzzResolver(f *testing.F) { f.Fuzz(rapid.MakeFuzz(resolverIsNaive)) }

// TestResolve does the same through an index, where layers above the chain, other lineages and other regions lie beside it.
func TestResolve(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	lineages := LineageID(0) // each run has its own
	rapid.Check(t, func(t *rapid.T) {
		region := rapid.Uint64Range(0, 3).Draw(t, "region")
		layers := drawLayers(t, region)
		lineages += 2000
		chain := new(Chain)
		var overlay []LayerDelta
		chain.Cuts, overlay = parts(layers)
		require.NoError(t, x.Update(func(tx *Tx) error {
			noise := Record{Data: drawBitmap(t, "noise")}
			for i := range layers {
				l := &layers[i]
				l.lineage += lineages
				tx.PutRecord(l.lineage, region, l.id, &l.record)
				tx.PutRecord(l.lineage, region+1, l.id, &noise)
				if n := len(chain.Segments); n == 0 || chain.Segments[n-1].Lineage != l.lineage {
					chain.Segments = append(chain.Segments, Segment{l.lineage, l.id})
					tx.PutRecord(l.lineage, region, 2000, &noise) // newer than the branch point
				}
			}
			return nil
		}))
		var out Owners
		require.NoError(t, x.Resolve(chain, region, overlay, &out))
		require.Equal(t, naiveOwners(layers, region), out)
	})
}

// Some cases a reader can check by hand.
func TestResolverCases(t *testing.T) {
	data := func(from, to int) Record { return Record{Data: run(from, to)} }
	const cutAt = 100
	cases := map[string]struct {
		layers []modelLayer
		want   map[int]LayerID // a block of the region and its owner
	}{
		"nobody": {nil, map[int]LayerID{0: 0, 1023: 0}},
		"newest wins": {
			[]modelLayer{{id: 9, record: data(0, 10)}, {id: 3, record: data(5, 20)}},
			map[int]LayerID{0: 9, 9: 9, 10: 3, 19: 3, 20: 0},
		},
		"zero hides": {
			[]modelLayer{{id: 9, record: Record{Zero: run(0, 10)}}, {id: 3, record: data(0, 20)}},
			map[int]LayerID{0: 0, 9: 0, 10: 3},
		},
		"a cut hides what is below, not its layer": {
			[]modelLayer{{id: 9, record: data(150, 160), cuts: []Cut{{9, cutAt, false}}}, {id: 3, record: data(0, 1024)}},
			map[int]LayerID{99: 3, 100: 0, 149: 0, 150: 9, 160: 0, 1023: 0},
		},
		"a void cut hides its layer, too": {
			[]modelLayer{{id: 9, record: data(90, 160), cuts: []Cut{{9, cutAt, true}}}, {id: 3, record: data(0, 1024)}},
			map[int]LayerID{89: 3, 90: 9, 99: 9, 100: 0, 159: 0},
		},
		"a cut of a layer that never touched the region": {
			[]modelLayer{{id: 9, cuts: []Cut{{9, cutAt, false}}}, {id: 3, record: data(0, 1024)}},
			map[int]LayerID{99: 3, 100: 0},
		},
		"uncommitted: a bit given back": {
			[]modelLayer{{id: 9, record: data(0, 10), delta: &Delta{None: run(3, 5)}}, {id: 3, record: data(0, 1024)}},
			map[int]LayerID{2: 9, 3: 3, 4: 3, 5: 9},
		},
	}
	for name, c := range cases {
		cuts, overlay := parts(c.layers)
		var out Owners
		r := newResolver(0, cuts, overlay, &out)
		for _, l := range c.layers {
			if !l.record.Empty() {
				r.add(l.id, &l.record)
			}
		}
		r.finish()
		for i, want := range c.want {
			require.Equal(t, want, out[i], "%s: block %d", name, i)
		}
	}
}

// Reading ends as soon as everything is decided: what lies below is not even looked at.
func TestResolveStops(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.PutRecord(2, 0, 9, &Record{Data: run(0, 512), Zero: run(512, 1024)})
		tx.put(recordKey(nil, 2, 0, 8), []byte("damaged"))
		tx.put(recordKey(nil, 1, 0, 3), []byte("damaged"))
		return nil
	}))
	var out Owners
	require.NoError(t, x.Resolve(&Chain{Segments: []Segment{{2, 9}, {1, 5}}}, 0, nil, &out))
	require.Equal(t, slices.Repeat([]LayerID{9}, 512), out[:512])
	require.Equal(t, slices.Repeat([]LayerID{0}, 512), out[512:])
}

func TestNextRegion(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	lineage := LineageID(0) // each run has its own
	rapid.Check(t, func(t *rapid.T) {
		lineage += 10
		chain := &Chain{Segments: []Segment{{lineage + 2, 9}, {lineage + 1, 5}}}
		var there [10]bool
		require.NoError(t, x.Update(func(tx *Tx) error {
			for range rapid.IntRange(0, 4).Draw(t, "records") {
				region := rapid.Uint64Range(0, 9).Draw(t, "region")
				l := lineage + LineageID(rapid.IntRange(0, 3).Draw(t, "lineage"))
				tx.PutRecord(l, region, 4, &Record{Data: run(1, 2)})
				there[region] = there[region] || l == lineage+1 || l == lineage+2
			}
			return nil
		}))
		for region, want := uint64(len(there)), len(there); ; region-- {
			if region < uint64(len(there)) && there[region] {
				want = int(region)
			}
			next, ok, err := x.NextRegion(chain, region)
			require.NoError(t, err)
			require.Equal(t, want < len(there), ok)
			if ok {
				require.EqualValues(t, want, next)
			}
			if region == 0 {
				break
			}
		}
	})
}
