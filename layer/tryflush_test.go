package layer

// TryFlush: a flush that waits for the disk and for nothing else.

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTryFlush(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	syncs, broken := 0, false
	fault = func(kind string) error {
		if kind != "sync" {
			return nil
		}
		syncs++
		if broken {
			return syscall.EIO
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })

	write(t, f, blocksOf(1, 2), 0)
	require.ErrorIs(t, f.TryFlush(), ErrWait, "blocks that the index does not know")
	flush(t, f)
	syncs = 0
	require.NoError(t, f.TryFlush())
	require.Zero(t, syncs, "nothing was written")
	write(t, f, blocksOf(2, 2), 0)
	require.NoError(t, f.TryFlush())
	require.Equal(t, 1, syncs)

	resize(t, f, 16*blockSize)
	write(t, f, blocksOf(3, 1), 12*blockSize)
	require.ErrorIs(t, f.TryFlush(), ErrWait, "a new size")
	flush(t, f)

	f.vm.sealing.Lock()
	require.ErrorIs(t, f.TryFlush(), ErrWait, "a snapshot is under way")
	f.vm.sealing.Unlock()

	snapshot(t, v, "s")
	write(t, f, blocksOf(4, 1), 0)
	require.ErrorIs(t, f.TryFlush(), ErrWait, "the first write after a snapshot")
	flush(t, f)

	write(t, f, blocksOf(5, 1), 0)
	broken = true
	require.Equal(t, syscall.EIO, Errno(f.TryFlush()))
	broken = false
	require.Equal(t, syscall.EIO, Errno(f.TryFlush()), "what failed once may be lost")
	require.Equal(t, syscall.EIO, Errno(f.Flush(true)))
	require.Error(t, s.Close())
}
