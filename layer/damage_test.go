package layer

// Files of a store that somebody has changed: what is wrong is refused or found by check, what is read is right or EIO,
// and nobody dies of it. The index has tests of its own.

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// readable are the contents of all files and snapshots of a store; nil for what can't be read.
func readable(t *testing.T, s *Store) map[string][]byte {
	t.Helper()
	found := make(map[string][]byte)
	add := func(name string, size int64, from fileReader) {
		p := make([]byte, size)
		if _, err := from.Read(p, 0); err != nil {
			require.Equal(t, syscall.EIO, Errno(err), "%s: %v", name, err)
			require.NotContains(t, err.Error(), "\n")
			p = nil
		}
		found[name] = p
	}
	for _, v := range s.VMs() {
		for _, e := range v.Files() {
			add(v.Name()+"/"+e.Name, e.File.Attr().Size, e.File)
		}
		for _, n := range v.Snapshots() {
			for _, file := range n.Info().Files {
				w, err := n.View(file.Name)
				require.NoError(t, err)
				require.NoError(t, w.Open(viewHandle))
				add(v.Name()+"@"+n.Name()+"/"+file.Name, file.Size, w)
				w.Close(viewHandle)
			}
		}
	}
	return found
}

// use does what guests and operators do; all of it works, or is EIO.
func use(t *testing.T, s *Store) {
	t.Helper()
	v := vmNamed(t, s, "web")
	for _, e := range v.Files() {
		_, writeErr := e.File.Write([]byte("new"), 5, true)
		for _, err := range []error{writeErr, e.File.Discard(0, blockSize), e.File.Flush(false)} {
			if err != nil {
				require.Equal(t, syscall.EIO, Errno(err), "%v", err)
			}
		}
	}
	if _, err := v.CreateSnapshot(CreateOptions{Name: "more"}); err != nil {
		require.Equal(t, syscall.EIO, Errno(err), "%v", err)
	}
	drop(t, v, "s")
	settle(t, s)
}

func TestDamagedDataFiles(t *testing.T) {
	pristine := sample(t)
	s := openStore(t, pristine, Options{})
	want := readable(t, s)
	require.NoError(t, s.Close())
	require.NotContains(t, slices.Collect(maps.Values(want)), nil)
	entries, err := os.ReadDir(filepath.Join(pristine, layersName))
	require.NoError(t, err)
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool {
		info, err := e.Info()
		require.NoError(t, err)
		return info.Size() == 0 // of a head that nobody wrote to
	})
	require.Greater(t, len(entries), 2)

	for what, spoil := range map[string]func(path string) error{
		"missing":              os.Remove,
		"empty":                func(path string) error { return os.Truncate(path, 0) },
		"cut off":              func(path string) error { return os.Truncate(path, blockSize+100) },
		"a directory":          func(path string) error { return replace(path, func() error { return os.Mkdir(path, 0o700) }) },
		"a link":               func(path string) error { return replace(path, func() error { return os.Symlink("/etc/passwd", path) }) },
		"a dead link":          func(path string) error { return replace(path, func() error { return os.Symlink("nowhere", path) }) },
		"under a strange name": func(path string) error { return os.Rename(path, path+"0") },
		"under the name of another layer": func(path string) error {
			return os.Rename(path, filepath.Join(filepath.Dir(path), fileName(1<<40)))
		},
	} {
		for _, entry := range entries {
			if !oneIn(8) {
				continue
			}
			t.Run(what+" "+entry.Name(), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "store")
				copyStore(t, pristine, dir)
				require.NoError(t, spoil(filepath.Join(dir, layersName, entry.Name())))
				report, err := Check(dir)
				require.NoError(t, err)
				require.NotEmpty(t, report.Findings)
				named := make(map[string]bool)
				for _, f := range report.Notes {
					named[f.Object] = true
				}

				s, err := Open(dir, Options{})
				if err != nil { // of a head
					require.Contains(t, []string{"empty", "cut off"}, what)
					require.ErrorContains(t, err, entry.Name()+" ends at ")
					repaired(t, dir)
					s = openStore(t, dir, Options{})
				}
				got := readable(t, s)
				lost := 0
				for name := range want {
					if got[name] == nil {
						lost++
						require.True(t, named[name], "%s is not named: %v", name, report.Notes)
						continue
					}
					requireSame(t, want[name], got[name], "%s", name)
				}
				require.NotZero(t, lost, "something must be missing")
				use(t, s)
				_ = s.Close() // what could not be flushed is an error
			})
		}
	}
}

func replace(path string, by func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return by()
}

// What does not belong into a store is named, and left alone.
func TestForeignDataFiles(t *testing.T) {
	dir := sample(t)
	for _, name := range []string{"notes.txt", fileName(1 << 50), "0000000000000000"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, layersName, name), []byte("mine"), 0o600))
		report, err := Check(dir)
		require.NoError(t, err)
		require.NotEmpty(t, report.Findings)
		s := openStore(t, dir, Options{})
		settle(t, s)
		require.NoError(t, s.Close())
		left, err := os.ReadFile(filepath.Join(dir, layersName, name))
		require.NoError(t, err)
		require.Equal(t, "mine", string(left))
	}
}

// FORMAT, bit by bit.
func TestDamagedFormat(t *testing.T) {
	dir := sample(t)
	path := filepath.Join(dir, formatName)
	original, err := os.ReadFile(path)
	require.NoError(t, err)
	try := func(data []byte) {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		_, err := Open(dir, Options{})
		require.Contains(t, []syscall.Errno{syscall.EINVAL, syscall.EIO}, Errno(err), "%v", err)
		require.NotContains(t, err.Error(), "\n")
	}
	for at := range original {
		for bit := range 8 {
			if !oneIn(20) {
				continue
			}
			data := slices.Clone(original)
			data[at] ^= 1 << bit
			try(data)
		}
	}
	for size := range len(original) {
		if !oneIn(20) {
			continue
		}
		try(original[:size])
	}
	require.NoError(t, os.Remove(path))
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, syscall.EINVAL, "entries and no FORMAT")
}

// Parts of the store that are missing, or of another store.
func TestMissingParts(t *testing.T) {
	other := sample(t)
	for _, name := range []string{indexName, layersName, commitsName} {
		if !oneIn(3) {
			continue
		}
		dir := sample(t)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, name)))
		_, err := Open(dir, Options{})
		require.Equal(t, syscall.EIO, Errno(err), "%s missing: %v", name, err)
		report, err := Check(dir)
		require.True(t, err != nil || len(report.Findings) > 0, "%s missing", name)
		if name == layersName {
			continue // a store of the same history has the same names; its data is not told apart
		}
		if name == indexName {
			copyIndex(t, filepath.Join(other, name), filepath.Join(dir, name))
		} else {
			copySparse(t, filepath.Join(other, name), filepath.Join(dir, name))
		}
		_, err = Open(dir, Options{})
		require.Equal(t, syscall.EIO, Errno(err), "%s of another store: %v", name, err)
	}
	for _, name := range []string{ballastName, lockName} {
		dir := sample(t)
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
		s := openStore(t, dir, Options{})
		require.NoError(t, s.Close())
		requireSound(t, dir)
	}
}
