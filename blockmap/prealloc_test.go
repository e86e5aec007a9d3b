package blockmap

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Every memtable that Badger writes to has its room, also those it makes later.
func TestPreallocate(t *testing.T) {
	dir := t.TempDir()
	x, err := Open(dir, Options{})
	require.NoError(t, err)
	defer x.Close()
	check := func() (names []string) {
		names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
		require.NoError(t, err)
		require.NotEmpty(t, names)
		for _, name := range names {
			var st unix.Stat_t
			require.NoError(t, unix.Stat(name, &st))
			require.GreaterOrEqual(t, st.Blocks*512, min(st.Size, int64(memTableSize)), name)
		}
		return names
	}
	first := check()
	value := make([]byte, 512<<10)
	for i := range 80 { // 40 MiB
		require.NoError(t, x.Update(func(tx *Tx) error {
			tx.Put([]byte(fmt.Sprintf("m%d", i)), value)
			return nil
		}))
	}
	require.NotEqual(t, first, check(), "the memtable was replaced")
}
