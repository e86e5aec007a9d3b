package layer

// Files: what the model does not try, because it takes long, fails, or needs to be set up with care.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestRangesAreChecked(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 100)
	p := make([]byte, 10)
	for name, test := range map[string]struct {
		err  error
		want syscall.Errno
	}{
		"read before the start": {second(f.Read(p, -1)), syscall.EINVAL},
		"write past the limit":  {second(f.Write(p, MaxFileSize-5, true)), syscall.EFBIG},
		"size below zero":       {sized(f, -1), syscall.EINVAL},
		"size past the limit":   {sized(f, MaxFileSize+1), syscall.EFBIG},
		"zero nothing":          {f.Zero(5, 0, true), syscall.EINVAL},
		"zero past the limit":   {f.Zero(MaxFileSize, 5, false), syscall.EFBIG},
		"discard backwards":     {f.Discard(5, -1), syscall.EINVAL},
		"allocate too much":     {f.Allocate(0, 1<<43, true), syscall.ENOSPC},
		"data behind the end":   {second64(f.FindExtent(100, false)), syscall.ENXIO},
		"a hole behind the end": {second64(f.FindExtent(100, true)), syscall.ENXIO},
		"data in a hole":        {second64(f.FindExtent(0, false)), syscall.ENXIO},
		"strange rename":        {v.Rename("root", "x", 8), syscall.EINVAL},
		"two ways to rename":    {v.Rename("root", "x", RenameNoReplace|RenameExchange), syscall.EINVAL},
	} {
		require.Equal(t, test.want, Errno(test.err), "%s: %v", name, test.err)
	}
	require.EqualValues(t, 100, f.Attr().Size)
	n, err := f.Read(p, 95)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	n, err = f.Read(p, 1<<40)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = f.Write(nil, 1000, true)
	require.NoError(t, err)
	require.Zero(t, n)
	require.EqualValues(t, 100, f.Attr().Size, "a write of nothing grows nothing")

	// The largest file there can be.
	resize(t, f, MaxFileSize)
	write(t, f, []byte("end"), MaxFileSize-3)
	off, err := f.FindExtent(0, false)
	require.NoError(t, err)
	require.EqualValues(t, MaxFileSize-blockSize, off)
	require.NoError(t, f.Zero(0, MaxFileSize, false))
	_, err = f.FindExtent(0, false)
	require.ErrorIs(t, err, syscall.ENXIO)
	resize(t, f, 0)
}

func second(_ int, err error) error     { return err }
func second64(_ int64, err error) error { return err }

func sized(f *File, size int64) error {
	_, err := f.SetAttr(SetAttr{Size: &size})
	return err
}

// With wait=false, what would have to wait is not done at all.
func TestWithoutWaiting(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 4*blockSize)
	write(t, f, blocksOf(1, 4), 0)

	v.barrier.Lock() // as while a snapshot swaps heads
	_, err := f.Write(blocksOf(2, 1), 0, false)
	require.Equal(t, ErrWait, err)
	data, lent, err := f.TryRead(make([]byte, 10), 0)
	require.NoError(t, err, "reads wait for nobody")
	require.Len(t, data, 10)
	require.False(t, lent.Any())
	v.barrier.Unlock()

	f.extending.Lock() // as while another write extends the file
	_, err = f.Write(blocksOf(2, 1), 8*blockSize, false)
	require.Equal(t, ErrWait, err)
	_, err = f.Write(blocksOf(1, 1), 0, false)
	require.NoError(t, err, "a write in place has nothing to do with it")
	f.extending.Unlock()

	s = reopen(t, s) // nothing of the map is in memory
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	_, _, err = f.TryRead(make([]byte, 10), 0)
	require.Equal(t, ErrWait, err)
	_, err = f.Write(blocksOf(2, 1), 0, false)
	require.Equal(t, ErrWait, err)
	requireSame(t, append(blocksOf(1, 1), blocksOf(1, 4)[blockSize:]...), content(t, f), "the file")
	require.EqualValues(t, 4*blockSize, f.Attr().Size)
}

// A second shrink cuts where it says, whatever the first one cut.
func TestShrinkTwice(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 10*blockSize)
	resize(t, f, 0)
	want := blocksOf(1, 3)
	write(t, f, want, 0)
	resize(t, f, 5000)
	requireSame(t, want[:5000], content(t, f), "the file")
	resize(t, f, 3*blockSize)
	want = append(want[:5000:5000], make([]byte, 3*blockSize-5000)...)
	requireSame(t, want, content(t, f), "the file, grown again")
	s = kill(t, s, filepath.Join(t.TempDir(), "copy"))
	defer s.Close()
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	requireSame(t, want, content(t, f), "the file after a crash")
	f.awaitVoid()
	require.EqualValues(t, 2*8, f.Attr().Blocks)
}

// A file that a revert took away under its user works like any unlinked one, and goes with its last handle.
func TestOrphanOfARevert(t *testing.T) {
	for _, discard := range []bool{false, true} {
		s := newStore(t, Options{})
		v := makeVM(t, s, "web")
		snapshot(t, v, "empty")
		f := makeFile(t, v, "root", 8*blockSize)
		require.NoError(t, f.Open(1, true))
		require.NoError(t, f.Open(2, false))
		write(t, f, blocksOf(1, 4), 0)
		r := revertTo(t, v, RevertOptions{Name: "empty", Force: true, Discard: discard})
		require.True(t, r.Reset)
		require.Empty(t, v.Files())
		require.Zero(t, f.Attr().Nlink)

		write(t, f, blocksOf(2, 1), 0)
		resize(t, f, 2*blockSize)
		write(t, f, blocksOf(3, 1), blockSize)
		require.NoError(t, f.Discard(0, 100))
		flush(t, f)
		want := append(blocksOf(2, 1), blocksOf(3, 1)...)
		clear(want[:100])
		requireSame(t, want, content(t, f), "the orphan")
		f.Close(1)
		requireSame(t, want, content(t, f), "the orphan")
		f.Close(2)
		_, err := s.FileByID(f.ID())
		require.ErrorIs(t, err, syscall.ESTALE)
		if !discard {
			requireSame(t, blocksOf(1, 4), viewed(t, v, r.Kept, "root")[:4*blockSize], "what was kept")
			drop(t, v, r.Kept)
		}
		drop(t, v, "empty")
		settle(t, s)
		require.Equal(t, Stats{}, layerStats(s))
		requireEmptyDir(t, layersDir(s))
	}
}

// What would be busy waits a moment for handles to go, and not for ever.
func TestBusy(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", blockSize)
	snapshot(t, v, "s")
	w := v.Snapshots()[0].Views()[0]

	require.NoError(t, f.Open(1, true))
	_, err := v.Revert(RevertOptions{Name: "s"})
	require.ErrorIs(t, err, syscall.EBUSY)
	later(func() { f.Close(1) })
	r := revertTo(t, v, RevertOptions{Name: "s"})
	require.False(t, r.Reset)
	require.NoError(t, f.Open(1, false))
	revertTo(t, v, RevertOptions{Name: "s"})
	f.Close(1)

	require.NoError(t, w.Open(1))
	_, err = v.DeleteSnapshots([]string{"s"})
	require.ErrorIs(t, err, syscall.EBUSY)
	require.NoError(t, w.Open(2), "what was not deleted can be opened")
	w.Close(2)
	later(func() { w.Close(1) })
	drop(t, v, "s")
	require.ErrorIs(t, w.Open(3), syscall.ESTALE)
	_, err = s.ViewByID(w.ID())
	require.ErrorIs(t, err, syscall.ESTALE)
}

func later(fn func()) { time.AfterFunc(50*time.Millisecond, fn) }

// A revert leaves alone what the snapshot left out, under whatever name it is now.
func TestRevertSparesWhatWasExcluded(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", blockSize)
	swap := makeFile(t, v, "swap", blockSize)
	write(t, swap, blocksOf(1, 1), 0)
	snapshot(t, v, "s", "root")
	require.NoError(t, v.Rename("swap", "swap2", 0))
	makeFile(t, v, "newer", blockSize)
	r := revertTo(t, v, RevertOptions{Name: "s"})
	require.Same(t, swap, fileNamed(t, v, "swap2"))
	requireSame(t, blocksOf(1, 1), content(t, swap), "the excluded file")
	_, err := v.Lookup("newer")
	require.ErrorIs(t, err, syscall.ENOENT)
	n, err := v.Snapshot(r.Kept)
	require.NoError(t, err)
	require.Equal(t, []string{"swap2"}, n.Info().Excluded)
}

// Once a flush has failed, what it would have made durable may be lost, though the next fsync of the kernel would say
// otherwise: no flush of that head succeeds any more, and nothing is built on it.
func TestFailedFlush(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 4*blockSize)
	write(t, f, blocksOf(1, 2), 0)
	flush(t, f)
	write(t, f, blocksOf(2, 2), blockSize)

	var pipe [2]int
	require.NoError(t, unix.Pipe(pipe[:]))
	defer unix.Close(pipe[1])
	head := &f.state.Load().head.data
	fd := head.fd.Swap(int64(pipe[0]) + 1) // what can't be synced
	require.Equal(t, syscall.EIO, Errno(f.Flush(true)))
	head.fd.Store(fd)
	require.NoError(t, unix.Close(pipe[0]))

	require.Equal(t, syscall.EIO, Errno(f.Flush(true)))
	_, err := v.CreateSnapshot(CreateOptions{Name: "s"})
	require.Equal(t, syscall.EIO, Errno(err))
	require.Empty(t, v.Snapshots())
	requireSame(t, blocksOf(2, 2), content(t, f)[blockSize:3*blockSize], "a running guest reads what it wrote")
	require.Error(t, s.Close())
	s = openStore(t, s.dir, Options{})
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	requireSame(t, blocksOf(1, 2)[:blockSize], content(t, f)[:blockSize], "what was flushed")
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// Without its index a store does nothing any more that would have to last, and whatever is refused has not happened.
func TestFailedIndex(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeVM(t, s, "empty")
	f := makeFile(t, v, "root", 4*blockSize)
	makeFile(t, v, "data", blockSize)
	write(t, f, blocksOf(1, 3), 0)
	snapshot(t, v, "s")
	require.NoError(t, s.index.Close())
	before, blocks := f.Attr(), content(t, f)

	mode, size := uint32(0o600), int64(blockSize)
	for name, refused := range map[string]func() error{
		"create":          func() error { _, _, err := v.Create("new", 0o644, 0, 0, false); return err },
		"unlink":          func() error { return v.Unlink("root") },
		"rename":          func() error { return v.Rename("root", "data", 0) },
		"exchange":        func() error { return v.Rename("root", "data", RenameExchange) },
		"chmod":           func() error { _, err := f.SetAttr(SetAttr{Mode: &mode}); return err },
		"shrink":          func() error { _, err := f.SetAttr(SetAttr{Size: &size}); return err },
		"chmod of a VM":   func() error { _, err := v.SetAttr(SetAttr{Mode: &mode}); return err },
		"create a VM":     func() error { _, err := s.CreateVM("db", 0o755, 0, 0); return err },
		"remove a VM":     func() error { return s.RemoveVM("empty") },
		"rename a VM":     func() error { return s.RenameVM("web", "db", false) },
		"snapshot":        func() error { _, err := v.CreateSnapshot(CreateOptions{Name: "t"}); return err },
		"delete":          func() error { _, err := v.DeleteSnapshots([]string{"s"}); return err },
		"rename snapshot": func() error { _, err := v.RenameSnapshot("s", "t"); return err },
		"revert":          func() error { _, err := v.Revert(RevertOptions{Name: "s", Discard: true}); return err },
		"preview":         func() error { _, err := v.Preview(PreviewOptions{Name: "s"}); return err },
		"clone":           func() error { _, err := v.Clone("s", "copy"); return err },
	} {
		err := refused()
		require.Equal(t, syscall.EIO, Errno(err), "%s: %v", name, err)
		require.Same(t, f, fileNamed(t, v, "root"), name)
		require.Len(t, v.Files(), 2, name)
		require.Equal(t, "root", f.Name(), name)
		require.Equal(t, before, f.Attr(), name)
		require.Len(t, s.VMs(), 2, name)
		require.Same(t, v, vmNamed(t, s, "web"), name)
		require.EqualValues(t, 0o755, v.Attr().Mode, name)
		require.Len(t, v.Snapshots(), 1, name)
		require.Equal(t, "s", v.Snapshots()[0].Name(), name)
	}
	requireSame(t, blocks, content(t, f), "the file")
	_ = s.Close()

	s = openStore(t, s.dir, Options{})
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	requireSame(t, blocks, content(t, f), "the file, opened again")
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
	_, err := os.Stat(s.dir)
	require.NoError(t, err)
}

// A VM of about as many files with the longest names as a snapshot can record: what is one transaction stays one.
func TestManyLongNames(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	made := 1400
	if testing.Short() {
		made = 100 // the race detector has seen all of it then
	}
	for i := range made {
		makeFile(t, v, fmt.Sprintf("%04d", i)+strings.Repeat(`"`, 251), 0) // which JSON writes as two bytes
	}
	snapshot(t, v, "s")
	revertTo(t, v, RevertOptions{Name: "s"})
	_, err := v.Preview(PreviewOptions{Name: "s"})
	require.NoError(t, err)
	_, err = v.Undo(false)
	require.NoError(t, err)
	_, err = v.Clone("s", "copy")
	require.NoError(t, err)
	s = reopen(t, s)
	require.Len(t, vmNamed(t, s, "web").Files(), made)
	require.Len(t, vmNamed(t, s, "copy").Files(), made)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}
