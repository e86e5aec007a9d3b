package blockmap

// Benchmarks of commits; those of resolution are in resolution_test.go.

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

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
