package blockmap

// Benchmarks of what must not depend on depth: `go test -run - -bench . ./blockmap`.

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var depths = []int{1, 10, 100, 1000}

// deepChain fills an index with layers that all own some block of region 0, and none of which hides another, and returns
// the chain over them, spread over the given number of lineages.
func deepChain(b *testing.B, layers, lineages int) (*Index, *Chain) {
	dir := b.TempDir()
	x, err := Open(dir, Options{})
	require.NoError(b, err)
	chain := new(Chain)
	per := layers / lineages
	for i := lineages; i > 0; i-- {
		chain.Segments = append(chain.Segments, Segment{LineageID(i), LayerID(i * per)})
	}
	require.NoError(b, x.Update(func(tx *Tx) error {
		for id := 1; id <= layers; id++ {
			var r Record
			r.Data.Set(id)
			r.Zero.Set((id * 7) % RegionBlocks)
			r.Zero.AndNot(&r.Data)
			tx.PutRecord(LineageID((id-1)/per+1), 0, LayerID(id), &r)
		}
		return nil
	}))
	// Opened again it reads from a table, as it mostly will, and not from memory.
	require.NoError(b, x.Close())
	x, err = Open(dir, Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, x.Close()) })
	return x, chain
}

func BenchmarkLookup(b *testing.B) {
	for _, depth := range depths {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			x, chain := deepChain(b, depth, 1)
			m := NewCache(x, 1<<20).NewMap(chain, nil)
			require.NoError(b, m.Load(0))
			b.ReportAllocs()
			block := uint64(0)
			var sum LayerID
			for b.Loop() {
				owner, _ := m.Lookup(block % RegionBlocks)
				sum += owner
				block += 37
			}
			require.NotZero(b, sum)
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, lineages := range []int{1, 10, 1000} {
		for _, depth := range depths {
			if depth < lineages {
				continue
			}
			b.Run(fmt.Sprintf("depth=%d/lineages=%d", depth, lineages), func(b *testing.B) {
				x, chain := deepChain(b, depth, lineages)
				var owners Owners
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, x.Resolve(chain, 0, nil, &owners))
				}
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, depth := range depths {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			x, chain := deepChain(b, depth, 1)
			m := NewCache(x, 1<<20).NewMap(chain, nil)
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, m.Load(0))
				m.Invalidate()
			}
		})
	}
}

// BenchmarkUpdate shows what grouping saves, the time per Update with many of them at once, and what the counter costs.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		benchmarkUpdate(b, fmt.Sprintf("writers=%d", writers), writers, true)
	}
	benchmarkUpdate(b, "writers=1,no counter", 1, false)
}

func benchmarkUpdate(b *testing.B, name string, writers int, counted bool) {
	b.Run(name, func(b *testing.B) {
		dir, o := b.TempDir(), Options{}
		if counted {
			o.Counter = filepath.Join(dir, counterName)
		}
		x, err := Open(filepath.Join(dir, "index"), o)
		require.NoError(b, err)
		defer x.Close()
		b.SetParallelism(writers)
		var r Record
		r.Data.SetRange(100, 200)
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for region := uint64(0); p.Next(); region++ {
				_ = x.Update(func(tx *Tx) error {
					tx.PutRecord(1, region%1000, 1, &r)
					return nil
				})
			}
		})
	})
}
