package layer

// Damage to memory images: who finds it, and that nobody is told to start a machine from one.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Damage to an image is found, and is an error to its readers.
func TestMemoryDamaged(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"lost":    os.Remove,
		"cut":     func(path string) error { return os.Truncate(path, 1000) },
		"garbage": func(path string) error { return os.WriteFile(path, make([]byte, 100_000), 0o600) },
		"a directory": func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		},
		"cut in its middle": func(path string) error {
			packed, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, slices.Delete(packed, 1000, 1100), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			n := withMemory(t, makeVM(t, s, "web"), "one", ram(frameSize))
			require.Len(t, settled(t, s), 1)
			path := s.images.path(n.image.id, true)
			require.NoError(t, s.Close())
			require.NoError(t, spoil(path))
			report, err := Check(s.dir)
			require.NoError(t, err)
			require.Len(t, report.Findings, 1)
			require.Equal(t, "web@one", report.Findings[0].Object)
			s = openStore(t, s.dir, s.opts)
			n, err = vmNamed(t, s, "web").Snapshot("one")
			require.NoError(t, err)
			m, err := n.Memory()
			require.NoError(t, err)
			require.NoError(t, m.Open(1))
			for range 2 { // the second read finds what the first one left
				_, err = m.Read(make([]byte, 1000), 0)
				require.Equal(t, syscall.EIO, Errno(err))
			}
			m.Close(1)
			require.ErrorContains(t, m.Damage(), "its file")
			scrub, err := s.Scrub()
			require.NoError(t, err)
			require.Len(t, scrub.Findings, 1)
			require.Equal(t, "web@one", scrub.Findings[0].Object)
			require.Contains(t, scrub.Findings[0].Text, "has lost the machine's memory, memory/00")
		})
	}
	t.Run("foreign", func(t *testing.T) {
		s := newStore(t, Options{})
		withMemory(t, makeVM(t, s, "web"), "one", ram(frameSize))
		require.Len(t, settled(t, s), 1)
		require.NoError(t, s.Close())
		for _, name := range []string{"x", "00000000000000ff", "00000000000000ff.zst", "1.zst"} {
			require.NoError(t, os.WriteFile(filepath.Join(s.images.dir, name), nil, 0o600))
		}
		report, err := Check(s.dir)
		require.NoError(t, err)
		require.Len(t, report.Findings, 4)
	})
}

// Two images of the same size, exchanged: each is whole, and another's.
func TestMemoryExchanged(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	memory := ram(2 * frameSize)
	var all []*Snapshot
	var paths []string
	for _, name := range []string{"one", "two"} {
		n := withMemory(t, v, name, memory)
		all, paths = append(all, n), append(paths, s.images.path(n.image.id, true))
		memory = slices.Concat(memory[len(memory)/2:], memory[:len(memory)/2])
		memory[5]++
	}
	require.Len(t, settled(t, s), 2)
	for _, n := range all {
		require.NoError(t, memoryOf(t, n).Damage())
	}
	require.NoError(t, unix.Renameat2(unix.AT_FDCWD, paths[0], unix.AT_FDCWD, paths[1], unix.RENAME_EXCHANGE))
	scrub, err := s.Scrub()
	require.NoError(t, err)
	require.Len(t, scrub.Findings, 2)
	for _, n := range all {
		require.ErrorContains(t, memoryOf(t, n).Damage(), "another image's")
	}
	require.NoError(t, s.Close())
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.Len(t, report.Findings, 2)
}

// A bit that flips anywhere in an image is found by a scrub, or changes nothing. What was found stays known, also to the next
// start, until it is right again.
func TestMemoryFlipped(t *testing.T) {
	s := newStore(t, Options{})
	memory := ram(2*frameSize + 1000)
	n := withMemory(t, makeVM(t, s, "web"), "one", memory)
	require.Len(t, settled(t, s), 1)
	path := s.images.path(n.image.id, true)
	info, err := os.Stat(path)
	require.NoError(t, err)
	places := []int64{0, 4, 5, 6, info.Size() - 1, info.Size() - 5, info.Size() - 9, info.Size() - 10, info.Size() - 30, info.Size() - 50}
	for at := int64(100); at < info.Size(); at += info.Size() / 15 {
		places = append(places, at)
	}
	found := 0
	for _, at := range places {
		flip(t, path, at)
		scrub, err := s.Scrub()
		require.NoError(t, err)
		require.Equal(t, 1, scrub.Images)
		if len(scrub.Findings) == 0 {
			requireMemory(t, memory, memoryOf(t, n))
			n.image.closeSource()
		} else {
			found++
			require.Equal(t, "web@one", scrub.Findings[0].Object)
			require.Error(t, memoryOf(t, n).Damage())
		}
		flip(t, path, at)
	}
	require.Greater(t, found, len(places)*3/4)
	_, err = s.Scrub()
	require.NoError(t, err)
	require.NoError(t, memoryOf(t, n).Damage(), "it is right again")

	flip(t, path, info.Size()/2)
	scrub, err := s.Scrub()
	require.NoError(t, err)
	require.Equal(t, [][2]int64{{frameSize, 2 * frameSize}}, scrub.Findings[0].Ranges)
	s = reopen(t, s)
	n, err = vmNamed(t, s, "web").Snapshot("one")
	require.NoError(t, err)
	require.ErrorContains(t, memoryOf(t, n).Damage(), "a scrub found it damaged in bytes 1048576-2097151")
	require.NoError(t, s.Close())
	require.Contains(t, findingOf(t, s.dir, "web@one"), "a scrub found it damaged")
}
