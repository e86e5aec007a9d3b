package layer

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got table[LayerID, int]
		want := make(map[LayerID]*int)
		id := rapid.Custom(func(t *rapid.T) LayerID {
			return LayerID(rapid.Uint64Range(1, 40).Draw(t, "id") << rapid.SampledFrom([]int{0, 32, 57}).Draw(t, "shift"))
		})
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) { k, v := id.Draw(t, "id"), new(int); got.Store(k, v); want[k] = v },
			"load or store": func(t *rapid.T) {
				k, v := id.Draw(t, "id"), new(int)
				if want[k] == nil {
					want[k] = v
				}
				require.Same(t, want[k], got.LoadOrStore(k, v))
			},
			"delete": func(t *rapid.T) { k := id.Draw(t, "id"); got.Delete(k); delete(want, k) },
			"": func(t *rapid.T) {
				n := 0
				got.Range(func(*int) bool { n++; return true })
				require.Len(t, want, n)
				for k, v := range want {
					require.Same(t, v, got.Load(k))
				}
				require.Nil(t, got.Load(1<<20))
			},
		})
	})
}

// What is there all the time is found all the time, whatever comes and goes around it.
func TestTableUnderChange(t *testing.T) {
	var tab table[FileID, FileID]
	const kept = 64
	for i := FileID(1); i <= kept; i++ {
		tab.Store(i, &i)
	}
	var ended atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for !ended.Load() {
				for i := FileID(1); i <= kept; i++ {
					if v := tab.Load(i); v == nil || *v != i {
						t.Errorf("%d is %v", i, v)
						return
					}
				}
			}
		})
	}
	for i := FileID(kept + 1); i < 20000; i++ {
		tab.Store(i, &i)
		if i > kept+100 {
			tab.Delete(i - 100)
		}
	}
	ended.Store(true)
	readers.Wait()
}

func BenchmarkTable(b *testing.B) {
	var tab table[LayerID, int]
	for i := LayerID(1); i <= 1000; i++ {
		tab.Store(i, new(int))
	}
	b.ReportAllocs()
	for i := LayerID(0); b.Loop(); i++ {
		if tab.Load(i%1000+1) == nil {
			b.Fatal("missing")
		}
	}
}
