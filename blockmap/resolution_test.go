package blockmap

// Benchmarks of resolution, which must not depend on depth, beside a naive walk down the chain, which does:
// `go test -run='^$' -bench='Resolution|NaiveWalk' ./blockmap`.

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	benchRegions = 16
	benchBlocks  = benchRegions * RegionBlocks
)

// shape is a chain to resolve.
type shape struct {
	depth    int // layers
	branched bool
}

// perLineage is how many layers of a branched chain are in one lineage; beside each of them other lineages grow from the same point.
const (
	perLineage = 10
	siblings   = 3
)

// benchShape runs a benchmark for each depth, and for a branched chain, in both orders and states.
func benchShapes(b *testing.B, run func(b *testing.B, d *deepDisk, cold bool, next func() uint64)) {
	for _, s := range []shape{{1, false}, {10, false}, {100, false}, {1000, false}, {100, true}, {1000, true}} {
		d := newDeepDisk(b, s)
		for _, cold := range []bool{false, true} {
			for _, random := range []bool{false, true} {
				name := fmt.Sprintf("%s,%s%s/depth=%d", pick(cold, "cold", "warm"), pick(random, "random", "sequential"),
					pick(s.branched, ",branched", ""), s.depth)
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					run(b, d, cold, order(random))
				})
			}
		}
	}
}

func pick(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// order returns what gives one block after the other.
func order(random bool) func() uint64 {
	block := uint64(benchBlocks - 1)
	if random {
		rng := rand.New(rand.NewPCG(1, 1))
		return func() uint64 { return rng.Uint64N(benchBlocks) }
	}
	return func() uint64 {
		block = (block + 1) % benchBlocks
		return block
	}
}

// deepDisk is a chain whose blocks are spread over all its layers.
type deepDisk struct {
	index   *Index
	chain   *Chain
	lineage []LineageID                       // of each layer, the newest first
	records [benchRegions]map[LayerID]*Record // of the chain
}

func newDeepDisk(b *testing.B, s shape) *deepDisk {
	dir := b.TempDir()
	x, err := Open(dir, Options{})
	require.NoError(b, err)
	d := &deepDisk{chain: new(Chain)}
	d.makeChain(s)
	d.makeRecords(s.depth)
	d.write(b, x, s)
	// Opened again it reads from tables, as it mostly will, and not from memory.
	require.NoError(b, x.Close())
	d.index, err = Open(dir, Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, d.index.Close()) })
	return d
}

func (d *deepDisk) makeChain(s shape) {
	per := s.depth
	if s.branched {
		per = perLineage
	}
	for id := s.depth; id >= 1; id-- {
		d.lineage = append(d.lineage, LineageID((id-1)/per+1))
	}
	for id := s.depth; id >= 1; id -= per {
		d.chain.Segments = append(d.chain.Segments, Segment{d.lineageOf(LayerID(id)), LayerID(id)})
	}
}

func (d *deepDisk) lineageOf(id LayerID) LineageID { return d.lineage[len(d.lineage)-int(id)] }

func (d *deepDisk) makeRecords(depth int) {
	rng := rand.New(rand.NewPCG(1, 2))
	for region := range d.records {
		d.records[region] = make(map[LayerID]*Record)
		for i := range RegionBlocks {
			id := LayerID(1 + rng.IntN(depth))
			if d.records[region][id] == nil {
				d.records[region][id] = new(Record)
			}
			d.records[region][id].Data.Set(i)
		}
	}
}

// write puts the chain's records into the index, and the same ones into lineages beside it.
func (d *deepDisk) write(b *testing.B, x *Index, s shape) {
	lineages := 1
	if s.branched {
		lineages += siblings
	}
	for region := range d.records {
		require.NoError(b, x.Update(func(tx *Tx) error {
			for id, r := range d.records[region] {
				for k := range lineages {
					tx.PutRecord(d.lineageOf(id)+LineageID(k*10000), uint64(region), id+LayerID(k*10000), r)
				}
			}
			return nil
		}))
	}
}

// BenchmarkResolution is how a block's owner is found: in the map, which has to be loaded first if it is cold. A disk that is read in
// order loads each region once for 1,024 blocks; at worst, at random, each read loads one.
func BenchmarkResolution(b *testing.B) {
	benchShapes(b, func(b *testing.B, d *deepDisk, cold bool, next func() uint64) {
		m := NewCache(d.index, 1<<20).NewMap(d.chain, nil)
		for region := range uint64(benchRegions) {
			require.NoError(b, m.Load(region))
		}
		var sum LayerID
		last := uint64(benchRegions)
		for b.Loop() {
			block := next()
			if region := block / RegionBlocks; cold && region != last {
				m.Invalidate()
				if err := m.Load(region); err != nil {
					b.Fatal(err)
				}
				last = region
			}
			owner, _ := m.Lookup(block)
			sum += owner
		}
		require.NotZero(b, sum)
	})
}

// BenchmarkNaiveWalk asks one layer after the other, from the newest down, until one has the block: its bitmap in memory, or, if that is
// cold, its record in the index.
func BenchmarkNaiveWalk(b *testing.B) {
	benchShapes(b, func(b *testing.B, d *deepDisk, cold bool, next func() uint64) {
		walk := d.walk
		if cold {
			walk = d.walkIndex
		}
		var sum LayerID
		for b.Loop() {
			owner, err := walk(next())
			if err != nil {
				b.Fatal(err)
			}
			sum += owner
		}
		require.NotZero(b, sum)
	})
}

func (d *deepDisk) walk(block uint64) (LayerID, error) {
	records, i := d.records[block/RegionBlocks], int(block%RegionBlocks)
	for id := LayerID(len(d.lineage)); id > 0; id-- {
		if r := records[id]; r != nil && r.Data.Has(i) {
			return id, nil
		}
	}
	return 0, nil
}

func (d *deepDisk) walkIndex(block uint64) (owner LayerID, err error) {
	err = d.index.View(func(tx *Tx) error {
		for owner = LayerID(len(d.lineage)); owner > 0; owner-- {
			r, err := tx.Record(d.lineageOf(owner), block/RegionBlocks, owner)
			if err != nil || r.Data.Has(int(block%RegionBlocks)) {
				return err
			}
		}
		return nil
	})
	return owner, err
}
