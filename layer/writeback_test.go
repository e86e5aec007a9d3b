package layer

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What is dirty, wherever in a sparse file of 1 TiB, is written in small parts, and all of it.
func TestWriteBack(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(1<<40))
	fd := int(f.Fd())
	_, err = f.WriteAt(bytes.Repeat([]byte{1}, 24<<20), 1<<30)
	require.NoError(t, err)
	for range 2000 {
		_, err := f.WriteAt(bytes.Repeat([]byte{2}, blockSize), rand.Int64N(1<<28)*blockSize)
		require.NoError(t, err)
	}
	all := extent{0, 1 << 40}
	dirty, err := dirtyBytes(fd, all)
	require.NoError(t, err)
	require.Greater(t, dirty, int64(24<<20), "the kernel was quicker than this test")

	end, parts := int64(0), 0
	require.NoError(t, eachDirty(fd, all, writebackBytes, func(e extent) error {
		require.GreaterOrEqual(t, e.off, end)
		end, parts = e.off+e.len, parts+1
		n, err := dirtyBytes(fd, e)
		require.NoError(t, err)
		require.True(t, n <= writebackBytes || e.len <= writebackBytes, "%d bytes at once", n)
		dirty -= n
		return nil
	}))
	require.LessOrEqual(t, dirty, int64(0), "left out")
	t.Logf("%d parts", parts)

	require.NoError(t, writeBack(fd))
	left, err := dirtyBytes(fd, all)
	require.NoError(t, err)
	require.Zero(t, left)
	require.NoError(t, unix.Fdatasync(fd))
}
