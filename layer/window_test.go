package layer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// lentBlocks reads through a window, which there has to be sooner or later.
func lentBlocks(t *testing.T, f fileReader, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n*blockSize)
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		data, lent, err := f.TryRead(p, off)
		if err == ErrWait {
			_, err = f.Read(p, off) // which loads the map
		}
		require.NoError(t, err)
		if lent.Any() {
			got := bytes.Clone(data)
			lent.GiveBack()
			return got
		}
		require.Less(t, time.Since(begin), time.Minute, "no window is opened")
	}
}

// openWindows counts windows, and the runs that are mapped in them.
func openWindows(s *Store) (n, runs int) {
	w := s.data.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open, w.runs
}

// What a window shows is what was written last, to a head and below it, through the whole of a disk's life.
func TestWindowShowsTheDisk(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 3*windowSize)
	want := pattern(1, 3*windowSize)
	write(t, f, want, 0)
	same := func(what string) {
		t.Helper()
		for off := 0; off < len(want); off += windowSize / 2 {
			requireSame(t, want[off:off+8*blockSize], lentBlocks(t, f, int64(off), 8), "%s, at %d", what, off)
		}
	}
	same("written")
	over := func(seed uint64) {
		t.Helper()
		for off := 0; off < len(want); off += windowSize / 2 {
			write(t, f, pattern(seed, 8*blockSize), int64(off))
			copy(want[off:], pattern(seed, 8*blockSize))
		}
	}
	over(2)
	same("written again")
	flush(t, f)
	same("flushed")
	old := bytes.Clone(want)
	snapshot(t, v, "s1")
	same("sealed")
	over(3)
	same("written over a snapshot")
	n, err := v.Snapshot("s1")
	require.NoError(t, err)
	w, err := n.View("root")
	require.NoError(t, err)
	require.NoError(t, w.Open(viewHandle))
	requireSame(t, old[:8*blockSize], lentBlocks(t, w, 0, 8), "the snapshot")
	w.Close(viewHandle)
	revertTo(t, v, RevertOptions{Name: "s1", Discard: true})
	want = old
	same("reverted")
}

// A window shows what lies in many layers, zeros too, and of a fragmented region what is worth it.
func TestWindowOverManyLayers(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", windowSize)
	want := make([]byte, windowSize)
	for i := range 30 {
		p := pattern(uint64(i), 16*blockSize)
		at := (i*7%30*2 + 1) * 16 * blockSize
		write(t, f, p, int64(at))
		copy(want[at:], p)
		snapshot(t, v, fmt.Sprintf("s%d", i))
	}
	for i := range 64 { // a block here and there, of the head
		if i%5 == 0 {
			at := i*16*blockSize + 3*blockSize
			write(t, f, pattern(uint64(100+i), blockSize), int64(at))
			copy(want[at:], pattern(uint64(100+i), blockSize))
		}
	}
	requireSame(t, want[windowSize/4-100:][:blockSize], lentBlocks(t, f, windowSize/4-100, 1), "over a border")
	at := 61 * 16 * blockSize
	requireSame(t, want[at:at+3*16*blockSize], lentBlocks(t, f, int64(at), 3*16), "zeros and data")
	requireSame(t, want, content(t, f), "the disk")
	open, runs := openWindows(s)
	require.Equal(t, 1, open)
	require.Greater(t, runs, 20)
}

// A read that no window has all of is read otherwise, and is the same.
func TestWindowEnds(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 2*windowSize)
	size := int64(windowSize + 20*blockSize + 100)
	want := pattern(1, int(size))
	write(t, f, want, 0)
	resize(t, f, size)
	lentBlocks(t, f, 0, 1)
	lentBlocks(t, f, windowSize, 1)
	p := make([]byte, windowSize)
	for _, r := range [][2]int64{{windowSize - blockSize, 2 * blockSize}, {windowSize + 1, 3 * blockSize}, {size - 50, 200}, {windowSize, windowSize}, {1, 1}} {
		n, err := tryOrWait(f, p[:r[1]], r[0])
		require.NoError(t, err)
		requireSame(t, want[r[0]:min(r[0]+r[1], size)], p[:n], "%d bytes at %d", r[1], r[0])
	}
}

// A data file that is cut off by somebody else under its window is damage, as it is without one.
func TestWindowOfACutFile(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", windowSize)
	write(t, f, blocksOf(1, 8), 0)
	lentBlocks(t, f, 0, 8)
	require.NoError(t, os.Truncate(filepath.Join(layersDir(s), fileName(f.state.Load().head.id)), blockSize))
	_, lent, err := f.TryRead(make([]byte, 4*blockSize), 4*blockSize)
	require.False(t, lent.Any())
	require.Equal(t, ErrWait, err)
	_, err = f.Read(make([]byte, 4*blockSize), 4*blockSize)
	require.Equal(t, syscall.EIO, Errno(err), "%v", err)
	requireSame(t, blocksOf(1, 1), lentBlocks(t, f, 0, 1), "what is left")
}

// Of a block that its data file ends within, no window shows the half.
func TestNoWindowOfHalfABlock(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", windowSize)
	write(t, f, blocksOf(1, 16), 0)
	write(t, f, blocksOf(2, 16), 32*blockSize)
	path := filepath.Join(layersDir(s), fileName(f.state.Load().head.id))
	snapshot(t, v, "s")
	require.NoError(t, s.Close())
	require.NoError(t, os.Truncate(path, 48*blockSize-100))
	s = openStore(t, s.dir, Options{})
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	p := make([]byte, blockSize)
	for range 3 {
		requireSame(t, blocksOf(1, 16), lentBlocks(t, f, 0, 16), "what is whole")
		_, err := tryOrWait(f, p, 47*blockSize)
		require.Equal(t, syscall.EIO, Errno(err), "%v", err)
	}
}

// What is lent is not punched out, nor is its file closed, before it is given back; then all of it is.
func TestWindowsGoWithTheirFiles(t *testing.T) {
	s := newStore(t, Options{MaxOpenFiles: 2})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 2*windowSize)
	write(t, f, blocksOf(1, 8), 0)
	write(t, f, blocksOf(2, 8), windowSize)
	requireSame(t, blocksOf(2, 8), lentBlocks(t, f, windowSize, 8), "the disk")
	requireSame(t, blocksOf(1, 8), lentBlocks(t, f, 0, 8), "the disk")
	path := filepath.Join(layersDir(s), fileName(f.state.Load().head.id))
	data, lent, err := f.TryRead(make([]byte, 8*blockSize), 0)
	require.NoError(t, err)
	require.True(t, lent.Any())
	require.NoError(t, v.Unlink("root"))
	for begin := time.Now(); time.Since(begin) < 50*time.Millisecond; time.Sleep(time.Millisecond) {
		requireSame(t, blocksOf(1, 8), data, "what is lent, of a disk that was deleted")
	}
	lent.GiveBack()
	settle(t, s)
	require.NoFileExists(t, path)
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	require.NotContains(t, string(maps), path, "a mapping keeps the file's space")
	n, _ := openWindows(s)
	require.Zero(t, n)
}

// One that is not used goes, and one that is asked for in the place of one that is not used comes.
func TestWindowsGiveWay(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 0)
	w := s.data.windows
	far := int64(len(w.places)) * windowSize // has the same place
	resize(t, f, far+windowSize)
	write(t, f, blocksOf(1, 8), 0)
	write(t, f, blocksOf(2, 8), far)
	for range 3 {
		requireSame(t, blocksOf(1, 8), lentBlocks(t, f, 0, 8), "one")
		requireSame(t, blocksOf(2, 8), lentBlocks(t, f, far, 8), "the other")
	}
	require.Eventually(t, func() bool { return !w.any() }, time.Minute, time.Millisecond, "windows of an idle disk")
}

// What the page cache does not have is not touched: a loop would wait for it.
func TestWindowOfWhatIsNotCached(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", windowSize)
	write(t, f, pattern(1, windowSize), 0)
	flush(t, f)
	fd, err := s.data.open(f.state.Load().head, false)
	require.NoError(t, err)
	require.NoError(t, unix.Fadvise(fd, 0, windowSize, unix.FADV_DONTNEED))
	w := s.data.windows
	chain := f.state.Load().chain
	w.grant(wish{chain, 0})
	require.True(t, w.any())
	cached := 0
	for b := range windowSize / blockSize {
		if w.find(chain, int64(b)*blockSize, blockSize) != nil {
			cached++
		}
	}
	require.Less(t, cached, windowSize/blockSize/2, "blocks said to be cached, that were dropped")
	requireSame(t, pattern(1, windowSize), content(t, f), "the disk")
}

// Where mappings are scarce, windows that are in use take the place of those that are not.
func TestWindowsWhereMappingsAreScarce(t *testing.T) {
	most := windowRunsAtMost
	windowRunsAtMost = 40
	t.Cleanup(func() { windowRunsAtMost = most })
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	const runs = 30
	want := make([]byte, 2*windowSize)
	f := makeFile(t, v, "root", int64(len(want)))
	for i := range runs {
		for half := range 2 {
			at := half*windowSize + i*shortestRun*blockSize
			p := pattern(uint64(2*i+half), shortestRun*blockSize)
			write(t, f, p, int64(at))
			copy(want[at:], p)
		}
		snapshot(t, v, fmt.Sprintf("s%d", i))
	}
	last := (runs - 1) * shortestRun * blockSize
	for range 3 {
		for _, at := range []int{last, windowSize + last} {
			requireSame(t, want[at:at+shortestRun*blockSize], lentBlocks(t, f, int64(at), shortestRun), "the last run, at %d", at)
		}
	}
	requireSame(t, want, content(t, f), "the disk")
	_, n := openWindows(s)
	require.LessOrEqual(t, n, 40)
}

// Where room for a window is short, or its place is taken, one that is not used gives way at once, and one that is used does not.
func TestIdleWindowsGiveWay(t *testing.T) {
	most, looked := windowRunsAtMost, windowsLooked
	windowRunsAtMost, windowsLooked = windowRuns+1, time.Hour
	t.Cleanup(func() { windowRunsAtMost, windowsLooked = most, looked })
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", windowSize)
	w := s.data.windows
	far := uint64(len(w.places))
	resize(t, f, int64(far+1)*windowSize)
	for _, region := range []uint64{0, 1, far} {
		write(t, f, blocksOf(byte(region), shortestRun), int64(region)*windowSize)
		_, err := f.Read(make([]byte, blockSize), int64(region)*windowSize) // loads the map
		require.NoError(t, err)
	}
	chain := f.state.Load().chain
	open := func() (regions []uint64) {
		for i := range w.places {
			if v := w.places[i].Load(); v != nil {
				regions = append(regions, v.region)
			}
		}
		return regions
	}
	w.grant(wish{chain, 0})
	w.grant(wish{chain, 1})
	require.Equal(t, []uint64{0, 1}, open(), "there is little room, but both are used")
	w.grant(wish{chain, far})
	require.Equal(t, []uint64{0, 1}, open(), "its place is used")
	w.look()
	w.grant(wish{chain, far})
	require.Equal(t, []uint64{0, 1}, open(), "since the last look it was not used, but that may be a moment")
	w.places[w.place(wish{chain, 1})].Load().used.Store(true)
	w.look()
	w.grant(wish{chain, far})
	require.Equal(t, []uint64{far, 1}, open())
}
