package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// However many layers are read and written, only so many of their files are open at once. An untouched layer has one only
// where the one below was written.
func TestDataFilesAreFew(t *testing.T) {
	const limit, files = 5, 30
	s := newStore(t, Options{MaxOpenFiles: limit})
	v := makeVM(t, s, "web")
	for i := range files {
		f := makeFile(t, v, fmt.Sprintf("disk%02d", i), 4*blockSize)
		write(t, f, blocksOf(byte(i+1), 2), 0)
		flush(t, f)
	}
	snapshot(t, v, "s")
	snapshot(t, v, "t")
	snapshot(t, v, "u")
	entries, err := os.ReadDir(layersDir(s))
	require.NoError(t, err)
	require.Len(t, entries, 2*files)
	for round := range 3 {
		for i := range files {
			f := fileNamed(t, v, fmt.Sprintf("disk%02d", i))
			requireSame(t, blocksOf(byte(i+1), 2), content(t, f)[:2*blockSize], "disk %d in round %d", i, round)
		}
	}
	require.Eventually(t, func() bool { return s.Stats().OpenFiles <= limit }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return openIn(t, layersDir(s)) <= limit }, 10*time.Second, time.Millisecond)
}

// openIn counts this process's descriptors of files in a directory.
func openIn(t *testing.T, dir string) (n int) {
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, fd := range open {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && filepath.Dir(target) == dir {
			n++
		}
	}
	return n
}

// Files that were written to and not flushed stay open until they are flushed, which comes soon where there are too many.
func TestManyUnflushedDataFiles(t *testing.T) {
	const limit = 5
	s := newStore(t, Options{MaxOpenFiles: limit})
	v := makeVM(t, s, "web")
	for i := range 6 * limit {
		f := makeFile(t, v, fmt.Sprintf("disk%02d", i), 4*blockSize)
		write(t, f, blocksOf(byte(i+1), 2), 0)
		require.Eventually(t, func() bool { return s.Stats().OpenFiles <= limit }, time.Minute, time.Millisecond)
	}
	for i := range 6 * limit {
		f := fileNamed(t, v, fmt.Sprintf("disk%02d", i))
		requireSame(t, blocksOf(byte(i+1), 2), content(t, f)[:2*blockSize], "disk %d", i)
	}
}

// A layer that says it holds a block, and has lost its file or the end of it, is damage: EIO, never zeros.
func TestLostDataIsAnError(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"the file": os.Remove,
		"its end":  func(path string) error { return os.Truncate(path, blockSize) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			v := makeVM(t, s, "web")
			f := makeFile(t, v, "root", 4*blockSize)
			write(t, f, blocksOf(1, 4), 0)
			path := filepath.Join(layersDir(s), fileName(f.state.Load().head.id))
			snapshot(t, v, "s1")
			require.NoError(t, s.Close())
			require.NoError(t, lose(path))

			report, err := Check(s.dir)
			require.NoError(t, err)
			require.NotEmpty(t, report.Findings)
			s = openStore(t, s.dir, Options{})
			_, err = fileNamed(t, vmNamed(t, s, "web"), "root").Read(make([]byte, blockSize), 2*blockSize)
			require.Equal(t, syscall.EIO, Errno(err), "%v", err)
		})
	}
}

func TestCheckFindsStrangers(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", 4*blockSize)
	require.NoError(t, s.Close())
	for _, name := range []string{"notes.txt", fileName(LayerID(v.ID()))} { // of which there is no layer
		require.NoError(t, os.WriteFile(filepath.Join(layersDir(s), name), []byte("x"), 0o600))
	}
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.Len(t, report.Findings, 2)

	// Nothing that the index does not know is cleaned up.
	s = openStore(t, s.dir, Options{})
	settle(t, s)
	require.NoError(t, s.Close())
	entries, err := os.ReadDir(layersDir(s))
	require.NoError(t, err)
	require.Len(t, entries, 2)
}
