package layer

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sumSoon has stores that are opened from here on make checksums at once.
func sumSoon(t *testing.T) {
	every := sumsEvery
	sumsEvery = time.Millisecond
	t.Cleanup(func() { sumsEvery = every })
}

// summed waits until all sealed layers have checksums.
func summed(t *testing.T, s *Store) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.layersToSum()) == 0 }, time.Minute, time.Millisecond)
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	p := make([]byte, 1)
	_, err = f.ReadAt(p, at)
	require.NoError(t, err)
	p[0] ^= 4
	_, err = f.WriteAt(p, at)
	require.NoError(t, err)
}

// sealed makes a VM with a disk of 600 blocks, sealed by the snapshot "s", of which 100 to 199 are written over.
func sealed(t *testing.T, s *Store) (v *VM, f *File, lower *layer) {
	t.Helper()
	v = makeVM(t, s, "web")
	f = makeFile(t, v, "root", 3000*blockSize)
	write(t, f, blocksOf(1, 600), 1000*blockSize) // in two regions
	lower = f.state.Load().head
	snapshot(t, v, "s")
	write(t, f, blocksOf(2, 100), 1100*blockSize)
	flush(t, f)
	return v, f, lower
}

func TestScrub(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{})
	_, _, lower := sealed(t, s)
	require.EqualValues(t, 700*blockSize, s.Stats().LayerBytes)
	summed(t, s)
	require.EqualValues(t, 100*blockSize, s.Stats().UnsummedBytes, "the head has none")
	report, err := s.Scrub()
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.Equal(t, 1, report.Layers)
	require.EqualValues(t, 600*blockSize, report.Bytes)

	path := filepath.Join(layersDir(s), fileName(lower.id))
	flip(t, path, 1023*blockSize+17)
	flip(t, path, 1024*blockSize)
	for range 2 {
		report, err = s.Scrub()
		require.NoError(t, err)
		require.Len(t, report.Findings, 2)
		for i, text := range []string{"block 1023 ", "block 1024 "} {
			require.Equal(t, "web@s/root", report.Findings[i].Object)
			require.Contains(t, report.Findings[i].Text, text)
		}
		s = reopen(t, s) // they are still there, and so are the checksums
	}
	summed(t, s)

	// What is given up is nobody's loss.
	v := vmNamed(t, s, "web")
	f := fileNamed(t, v, "root")
	write(t, f, blocksOf(3, 600), 1000*blockSize)
	flush(t, f)
	drop(t, v, "s")
	settle(t, s)
	report, err = s.Scrub()
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	left, err := os.ReadDir(filepath.Join(s.dir, sumsName))
	require.NoError(t, err)
	require.Empty(t, left, "checksums go with their layer")
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// With Verify, what is damaged is EIO at the read, and nothing else is.
func TestVerify(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{Verify: true})
	v, f, lower := sealed(t, s)
	want, now := viewed(t, v, "s", "root"), content(t, f)
	summed(t, s)
	requireSame(t, want, viewed(t, v, "s", "root"), "the snapshot")
	requireSame(t, now, content(t, f), "the file")
	for _, at := range []int64{1000*blockSize + 5, 1050*blockSize - 1, 1599*blockSize + 4000, 1599 * blockSize} {
		p := make([]byte, 77)
		n, err := f.Read(p, at, true)
		require.NoError(t, err)
		requireSame(t, now[at:at+int64(n)], p[:n], "a part from %d", at)
	}
	flip(t, filepath.Join(layersDir(s), fileName(lower.id)), 1200*blockSize+1)
	_, err := f.Read(make([]byte, 4), 1200*blockSize+100, true)
	require.ErrorIs(t, err, unix.EIO)
	require.ErrorContains(t, err, "block 1200 ")
	_, err = f.Read(make([]byte, blockSize), 1199*blockSize, true)
	require.NoError(t, err)
	_, err = f.Read(make([]byte, blockSize), 1100*blockSize, true)
	require.NoError(t, err, "the head's own")
	_, err = f.Write(make([]byte, 10), 1200*blockSize+3, true)
	require.ErrorIs(t, err, unix.EIO, "copying it up would make the damage look whole")
}

// Data files of two layers, exchanged: each is whole, and in the wrong place.
func TestScrubFindsExchangedFiles(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	var paths []string
	for i, name := range []string{"root", "data"} {
		f := makeFile(t, v, name, 10*blockSize)
		write(t, f, blocksOf(byte(i), 10), 0)
		paths = append(paths, filepath.Join(layersDir(s), fileName(f.state.Load().head.id)))
	}
	snapshot(t, v, "s")
	summed(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, unix.Renameat2(unix.AT_FDCWD, paths[0], unix.AT_FDCWD, paths[1], unix.RENAME_EXCHANGE))
	s = openStore(t, s.dir, Options{})
	report, err := s.Scrub()
	require.NoError(t, err)
	require.Len(t, report.Findings, 20)
}

// Checksums that are lost are named, and no reason to refuse the data unless they are asked for.
func TestLostSums(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{})
	_, f, lower := sealed(t, s)
	summed(t, s)
	want := content(t, f)
	require.NoError(t, s.Close())
	require.NoError(t, os.Remove(filepath.Join(s.dir, sumsName, fileName(lower.id))))
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.NotEmpty(t, report.Findings)
	s = openStore(t, s.dir, Options{})
	requireSame(t, want, content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "the file")
	scrub, err := s.Scrub()
	require.NoError(t, err)
	require.NotEmpty(t, scrub.Findings)
}

func TestScrubProgress(t *testing.T) {
	sumSoon(t)
	var store atomic.Pointer[Store]
	var seen []int
	var mu sync.Mutex
	fault = func(string) error {
		if s := store.Load(); s != nil {
			if percent, scrubs := s.ScrubProgress(); scrubs {
				mu.Lock()
				seen = append(seen, percent)
				mu.Unlock()
			}
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 64*blockSize)
	for i, name := range []string{"a", "b", "c", "d"} {
		write(t, f, blocksOf(byte(i), 8), int64(8*i)*blockSize)
		snapshot(t, v, name)
	}
	summed(t, s)
	_, scrubs := s.ScrubProgress()
	require.False(t, scrubs)
	store.Store(s)
	_, err := s.Scrub()
	require.NoError(t, err)
	store.Store(nil)
	mu.Lock()
	defer mu.Unlock()
	require.Zero(t, slices.Min(seen))
	require.Greater(t, slices.Max(seen), 50)
	_, scrubs = s.ScrubProgress()
	require.False(t, scrubs)
}
