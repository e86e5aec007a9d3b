package layer

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Those who ask for a flush while one runs share the next, and what becomes of it.
func TestFlushesShareARound(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 8*blockSize)
	write(t, f, blocksOf(1, 2), 0)
	flush(t, f)
	head := f.state.Load().head
	w := head.writer()

	for _, want := range []error{nil, syscall.EIO} {
		syncs := 0
		fault = func(kind string) error {
			if kind != "sync" {
				return nil
			}
			syncs++
			return want
		}
		t.Cleanup(func() { fault = nil })
		w.flushing.Lock() // one is under way
		results := make(chan error)
		for i := range 8 {
			write(t, f, blocksOf(byte(i), 1), int64(i%2)*blockSize)
			go func() { results <- f.Flush(i%3 > 0) }()
		}
		require.Eventually(t, func() bool {
			w.rounds.mu.Lock()
			defer w.rounds.mu.Unlock()
			return w.rounds.next != nil && !w.rounds.next.dataOnly
		}, time.Minute, time.Millisecond)
		select {
		case err := <-results:
			t.Fatalf("answered before it was flushed: %v", err)
		case <-time.After(50 * time.Millisecond): // time for all of them to ask
		}
		w.flushing.Unlock()
		for range 8 {
			err := <-results
			if want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, want)
			}
		}
		require.Less(t, syncs, 8)
	}
	require.Error(t, s.Close())
}
