package layer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever has flushed each of several writes has the disk begin with the next one before it is flushed. Nobody else has, nor
// who has got out of that habit.
func TestWriteEarly(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 4000*blockSize)
	write(t, f, blocksOf(1, 4000), 0)
	flush(t, f)
	head := f.state.Load().head
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	fd, err := s.data.open(head, false)
	require.NoError(t, err)
	block := int64(0)
	dirty := func(blocks int) bool {
		t.Helper()
		block += 100 // none in the same folio, which is left alone while it is being written
		write(t, f, blocksOf(2, blocks), block*blockSize)
		n, err := dirtyBytes(fd, extent{block * blockSize, blockSize})
		require.NoError(t, err)
		return n > 0
	}
	habit := func() {
		t.Helper()
		for range earlyFrom {
			require.True(t, dirty(1))
			require.NoError(t, tryFlush(f))
		}
	}
	habit()
	require.False(t, dirty(1))
	require.NoError(t, tryFlush(f))
	require.False(t, dirty(1))
	require.False(t, dirty(1))
	require.True(t, dirty(1), "the third without a flush: that is another habit")
	require.NoError(t, tryFlush(f))
	habit()
	require.True(t, dirty(9), "more than was flushed at a time")
	require.NoError(t, tryFlush(f))
	habit()
	require.False(t, dirty(1))
	require.NoError(t, f.Flush(true))
	require.NoError(t, dataSync(fd))
	p := make([]byte, blockSize)
	_, err = f.Read(p, block*blockSize)
	require.NoError(t, err)
	require.Equal(t, blocksOf(2, 1), p)
}
