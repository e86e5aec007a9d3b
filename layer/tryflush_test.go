package layer

// TryFlush: a flush that waits for the disk and for nothing else.

import (
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// tryFlush waits for how it ended.
func tryFlush(f *File) error {
	ended := make(chan error, 1)
	f.TryFlush(func(err error) { ended <- err })
	return <-ended
}

// failSyncs counts syncs from here on, and has them fail while broken is set. A store is opened after it, whose
// goroutines use it.
func failSyncs(t *testing.T) (syncs *atomic.Int32, broken *atomic.Bool) {
	syncs, broken = new(atomic.Int32), new(atomic.Bool)
	fault = func(kind string) error {
		if kind != "sync" {
			return nil
		}
		syncs.Add(1)
		if broken.Load() {
			return syscall.EIO
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })
	return syncs, broken
}

func TestTryFlush(t *testing.T) {
	syncs, broken := failSyncs(t)
	s := newStore(t, Options{})
	openJournal(t, s) // whose making would count
	awaitBallast(t, s)
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)

	write(t, f, blocksOf(1, 2), 0)
	require.ErrorIs(t, tryFlush(f), ErrWait, "blocks that the index does not know")
	flush(t, f)
	syncs.Store(0)
	require.NoError(t, tryFlush(f))
	require.Zero(t, syncs.Load(), "nothing was written")
	write(t, f, blocksOf(2, 2), 0)
	require.NoError(t, tryFlush(f))
	require.EqualValues(t, 1, syncs.Load())

	write(t, f, blocksOf(3, 1), 12*blockSize)
	require.ErrorIs(t, tryFlush(f), ErrWait, "a new size")
	flush(t, f)

	f.vm.sealing.Lock()
	require.ErrorIs(t, tryFlush(f), ErrWait, "a snapshot is under way")
	f.vm.sealing.Unlock()

	snapshot(t, v, "s")
	write(t, f, blocksOf(4, 1), 0)
	require.NoError(t, tryFlush(f), "the first write after a snapshot: into the journal")
	require.NoError(t, f.Commit(true))

	write(t, f, blocksOf(5, 1), 0)
	broken.Store(true)
	require.Equal(t, syscall.EIO, Errno(tryFlush(f)))
	broken.Store(false)
	require.Equal(t, syscall.EIO, Errno(tryFlush(f)), "what failed once may be lost")
	require.Equal(t, syscall.EIO, Errno(f.Flush(true)))
	require.Error(t, s.Close())
}
