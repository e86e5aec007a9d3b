package blockmap

// Reading Badger's files, whatever is in them: no panic, and no reading outside of them.

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// seeds adds the content of an index's files, and that cut off in the middle.
func seeds(f *testing.F, pattern string) {
	dir := f.TempDir()
	x, err := Open(dir, Options{})
	require.NoError(f, err)
	for i := range byte(20) {
		require.NoError(f, x.Update(func(tx *Tx) error {
			tx.Put([]byte{'k', i}, []byte("value"))
			return nil
		}))
	}
	if pattern == "*.sst" {
		require.NoError(f, x.Close())
	}
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(f, err)
	require.NotEmpty(f, names)
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		data = bytes.TrimRight(data, "\x00")
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	_ = x.Close()
}

func FuzzTable(f *testing.F) {
	seeds(f, "*.sst")
	f.Fuzz(func(t *testing.T, data []byte) {
		newest, err := verifyTable(data)
		if err != nil {
			require.Zero(t, newest)
		}
	})
}

func FuzzLog(f *testing.F) {
	seeds(f, memPattern)
	f.Fuzz(func(t *testing.T, data []byte) {
		s := scanLog(data)
		require.Equal(t, s.first == 0, s.last == 0)
		require.LessOrEqual(t, s.end, len(data))
		for rest := data; ; {
			_, key, value, size := cutEntry(rest)
			if size == 0 {
				return
			}
			require.Less(t, len(key)+len(value), size)
			rest = rest[size:]
		}
	})
}
