package layer

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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
	flip(t, path, 1100*blockSize) // of the snapshot alone
	flip(t, path, 1500*blockSize)
	for range 2 {
		report, err = s.Scrub()
		require.NoError(t, err)
		require.Len(t, report.Findings, 2, "they are read by others")
		require.Equal(t, "web@s/root", report.Findings[0].Object)
		require.Contains(t, report.Findings[0].Text, "blocks 1023-1024, 1500 of data file ")
		require.Equal(t, [][2]int64{{1023 * blockSize, 1025 * blockSize}, {1500 * blockSize, 1501 * blockSize}}, report.Findings[0].Ranges)
		require.Contains(t, report.Findings[1].Text, "block 1100 of data file ")
		require.Equal(t, [][2]int64{{1100 * blockSize, 1101 * blockSize}}, report.Findings[1].Ranges)
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
		n, err := f.Read(p, at)
		require.NoError(t, err)
		requireSame(t, now[at:at+int64(n)], p[:n], "a part from %d", at)
	}
	flip(t, filepath.Join(layersDir(s), fileName(lower.id)), 1200*blockSize+1)
	_, err := f.Read(make([]byte, 4), 1200*blockSize+100)
	require.ErrorIs(t, err, unix.EIO)
	require.ErrorContains(t, err, "block 1200 ")
	_, err = f.Read(make([]byte, blockSize), 1199*blockSize)
	require.NoError(t, err)
	_, err = f.Read(make([]byte, blockSize), 1100*blockSize)
	require.NoError(t, err, "the head's own")
	_, err = f.Write(make([]byte, 10), 1200*blockSize+3, true)
	require.ErrorIs(t, err, unix.EIO, "copying it up would make the damage look whole")
}

// A layer whose snapshot was deleted is read on by those above it: it is summed, scrubbed and verified like any other.
func TestRetiredLayersAreSummed(t *testing.T) {
	for _, when := range []string{"before it was summed", "after it was summed"} {
		t.Run(when, func(t *testing.T) {
			if when == "after it was summed" {
				sumSoon(t)
			}
			s := newStore(t, Options{Verify: true})
			v, f, lower := sealed(t, s)
			snapshot(t, v, "t")
			clone, err := v.Clone("t", "copy")
			require.NoError(t, err)
			if when == "after it was summed" {
				summed(t, s)
			}
			drop(t, v, "s")
			settle(t, s)
			if when == "before it was summed" {
				require.NoError(t, s.Close())
				sumSoon(t)
				s = openStore(t, s.dir, Options{Verify: true})
				v, clone = vmNamed(t, s, "web"), vmNamed(t, s, "copy")
				f, lower = fileNamed(t, v, "root"), s.tree.layer(lower.id)
			}
			summed(t, s)
			require.Nil(t, lower.snap)
			require.Zero(t, s.Stats().UnsummedBytes, "nothing was written since the last snapshot")
			report, err := s.Scrub()
			require.NoError(t, err)
			require.Empty(t, report.Findings)
			require.Equal(t, 2, report.Layers)
			require.EqualValues(t, 600*blockSize, report.Bytes, "what is left of the one, and the other")
			require.Zero(t, report.Unsummed)

			flip(t, filepath.Join(layersDir(s), fileName(lower.id)), 1200*blockSize+9)
			report, err = s.Scrub()
			require.NoError(t, err)
			require.Len(t, report.Findings, 1)
			require.Equal(t, "web@t/root", report.Findings[0].Object, "who reads it")
			require.ElementsMatch(t, []string{"web@t/root", "web/root", "copy/root"}, report.Findings[0].Readers)
			require.Contains(t, report.Findings[0].Text, "; also read by ")
			for _, f := range []*File{f, fileNamed(t, clone, "root")} {
				_, err = f.Read(make([]byte, blockSize), 1200*blockSize)
				require.ErrorIs(t, err, unix.EIO)
			}

			// Who alone reads it now is whom it strikes.
			drop(t, v, "t")
			report, err = s.Scrub()
			require.NoError(t, err)
			require.Len(t, report.Findings, 1)
			require.Contains(t, []string{"web/root", "copy/root"}, report.Findings[0].Object)
		})
	}
}

// Layers that leave, and blocks that are punched out, while they are summed and scrubbed are nobody's damage, and nothing
// of them stays.
func TestSumsBesideReclaim(t *testing.T) {
	sumSoon(t)
	var events sync.Map
	s := newStore(t, Options{Verify: true, Event: func(_, event string, attrs ...any) { events.Store(event, attrs) }})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 3000*blockSize)
	done, scrubs := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			report, err := s.Scrub()
			if !assert.NoError(t, err) || !assert.Empty(t, report.Findings) {
				return
			}
			scrubs++
		}
	})
	for i := range 40 {
		write(t, f, blocksOf(byte(i), 300), int64(i%8)*250*blockSize)
		snapshot(t, v, strconv.Itoa(i))
		if i >= 2 {
			drop(t, v, strconv.Itoa(i-2))
		}
		if i%8 == 7 {
			drop(t, v, strconv.Itoa(i-1), strconv.Itoa(i))
			write(t, f, blocksOf(byte(i), 2500), 0)
			flush(t, f)
			snapshot(t, v, strconv.Itoa(i-1))
			snapshot(t, v, strconv.Itoa(i))
		}
		content(t, f)
	}
	close(done)
	wg.Wait()
	t.Logf("%d scrubs", scrubs)
	settle(t, s)
	summed(t, s)
	for _, event := range []string{"sum-failed", "sums-lost", "reclaim-failed"} {
		_, told := events.Load(event)
		require.False(t, told, event)
	}
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
	left, err := os.ReadDir(filepath.Join(s.dir, sumsName))
	require.NoError(t, err)
	data, err := os.ReadDir(layersDir(s))
	require.NoError(t, err)
	require.LessOrEqual(t, len(left), len(data))
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
	require.Len(t, report.Findings, 2)
	for _, f := range report.Findings {
		require.Equal(t, [][2]int64{{0, 10 * blockSize}}, f.Ranges)
	}
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
