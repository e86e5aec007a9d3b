package layer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A copy of a store may have holes where a sealed layer has blocks of zeros: their checksums say that nothing is lost. Where they do
// not, it is.
func TestHolesInPlaceOfZeros(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 12*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	write(t, f, make([]byte, 3*blockSize), 2*blockSize)
	path := filepath.Join(layersDir(s), fileName(f.state.Load().head.id))
	snapshot(t, v, "s1")
	summed(t, s)
	want := contents(t, s)
	require.NoError(t, s.Close())
	punch := func(block int64) {
		data, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Fallocate(int(data.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, block*blockSize, blockSize))
		require.NoError(t, data.Close())
	}
	for block := int64(2); block < 5; block++ {
		punch(block)
	}
	requireSound(t, s.dir)
	require.Empty(t, repaired(t, s.dir).Repaired)
	s = openStore(t, s.dir, Options{})
	require.Equal(t, want, contents(t, s))
	require.NoError(t, s.Close())

	punch(5)
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.Contains(t, report.Findings[0].Text, "has lost blocks 5 of what the layer holds")
}
