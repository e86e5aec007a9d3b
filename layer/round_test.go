package layer

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Those who ask for a flush while one runs share the next, and what becomes of it.
func TestFlushesShareARound(t *testing.T) {
	syncs, broken := failSyncs(t)
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 8*blockSize)
	write(t, f, blocksOf(1, 2), 0)
	flush(t, f)
	w := f.state.Load().head.writer()

	for _, fails := range []bool{false, true} {
		syncs.Store(0)
		broken.Store(fails)
		w.flushing.Lock() // one is under way
		results := make(chan error)
		for i := range 8 {
			write(t, f, blocksOf(byte(i), 1), int64(i%2)*blockSize)
			go func() { results <- f.Flush(i%3 > 0) }()
		}
		require.Eventually(t, func() bool {
			w.rounds.mu.Lock()
			defer w.rounds.mu.Unlock()
			return w.rounds.next != nil && w.rounds.next.what.times
		}, time.Minute, time.Millisecond)
		select {
		case err := <-results:
			t.Fatalf("answered before it was flushed: %v", err)
		case <-time.After(50 * time.Millisecond): // time for all of them to ask
		}
		w.flushing.Unlock()
		for range 8 {
			if err := <-results; fails {
				require.ErrorIs(t, err, syscall.EIO)
			} else {
				require.NoError(t, err)
			}
		}
		require.Less(t, int(syncs.Load()), 8)
	}
	require.Error(t, s.Close())
}
