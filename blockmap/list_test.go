package blockmap

// The list of tables: where it is not the one that goes with the tables, it is what is named.

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestWrongList(t *testing.T) {
	pristine, content := crashed(t)
	list := filepath.Join("index", badger.ManifestFilename)
	whole, err := os.ReadFile(filepath.Join(pristine, list))
	require.NoError(t, err)
	// Each change is a record: length and checksum, 4 bytes each, big endian, before it.
	var ends []int
	for at := 8; at < len(whole); {
		at += 8 + int(whole[at])<<24 + int(whole[at+1])<<16 + int(whole[at+2])<<8 + int(whole[at+3])
		ends = append(ends, at)
	}
	require.Equal(t, len(whole), ends[len(ends)-1])
	other := t.TempDir()
	x, err := openCounted(other)
	require.NoError(t, err)
	require.NoError(t, x.Close())
	foreign, err := os.ReadFile(filepath.Join(other, list))
	require.NoError(t, err)
	lists := map[string][]byte{"of another index": foreign, "without a change": whole[:8]}
	for _, end := range ends[:len(ends)-1] {
		lists[fmt.Sprintf("cut off at %d", end)] = whole[:end]
	}
	named := 0
	for what, p := range lists {
		dir := filepath.Join(t.TempDir(), "work")
		copyAll(t, pristine, dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, list), p, 0o600))
		before := stateOf(t, dir)
		x, err := openCounted(dir)
		if err == nil { // it was cut off where nothing followed but what changes nothing
			require.Equal(t, content, everything(t, x), what)
			require.NoError(t, x.Close())
			continue
		}
		named++
		require.ErrorIs(t, err, ErrDamaged, what)
		require.ErrorContains(t, err, badger.ManifestFilename+" does not have ", what)
		require.Equal(t, before, stateOf(t, dir), what)
	}
	require.GreaterOrEqual(t, named, 2)
}

// What is no file is never opened.
func TestNoFiles(t *testing.T) {
	pristine, content := crashed(t)
	for _, name := range []string{"MANIFEST", "LOCK", "KEYREGISTRY", "DISCARD", "000001.vlog"} {
		for how, put := range map[string]func(path string) error{
			"directory": func(path string) error { return os.MkdirAll(filepath.Join(path, "within"), 0o700) },
			"link":      func(path string) error { return os.Symlink(filepath.Join(pristine, "elsewhere"), path) },
			"pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		} {
			dir := filepath.Join(t.TempDir(), "work")
			copyAll(t, pristine, dir)
			path := filepath.Join(dir, "index", name)
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, put(path))
			_, err := openCounted(dir)
			require.ErrorIs(t, err, ErrDamaged, "%s, %s", name, how)
			require.ErrorContains(t, err, name+" is no file")
			if name == "MANIFEST" {
				continue
			}
			x, err := Open(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName), Aside: func(s Stray) error {
				require.Equal(t, name, s.Name)
				return os.RemoveAll(filepath.Join(dir, "index", s.Name))
			}})
			require.NoError(t, err, "%s, %s", name, how)
			require.Equal(t, content, everything(t, x))
			require.NoError(t, x.Close())
		}
	}
	require.NoFileExists(t, filepath.Join(pristine, "elsewhere"))
}
