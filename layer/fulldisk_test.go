package layer

// A disk that others have filled to the last byte.

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// others take all that a file system has, as any other process may.
type others struct{ file *os.File }

func newOthers(t tester, dir string) *others {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "others"))
	require.NoError(t, err)
	return &others{f}
}

// eat takes what there is.
func (o *others) eat(t tester) {
	t.Helper()
	info, err := o.file.Stat()
	require.NoError(t, err)
	end := info.Size()
	for n := int64(64 << 20); n >= blockSize; {
		if err := unix.Fallocate(int(o.file.Fd()), 0, end, n); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			require.NoError(t, o.file.Truncate(end))
			n /= 2
			continue
		}
		end += n
	}
	for { // what is kept for metadata
		if _, err := o.file.WriteAt(make([]byte, blockSize), end); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			break
		}
		end += blockSize
	}
	require.NoError(t, o.file.Sync())
}

// give gives n bytes back.
func (o *others) give(t tester, n int64) {
	t.Helper()
	info, err := o.file.Stat()
	require.NoError(t, err)
	require.NoError(t, o.file.Truncate(info.Size()-n))
	require.NoError(t, o.file.Sync())
}

// turnOver commits more than a memtable of the index holds, of entries that replace each other.
func turnOver(s *Store) error {
	value := pattern(1, 512<<10)
	for range 70 {
		err := s.update(func(tx *blockmap.Tx) error {
			tx.Put([]byte("x"), value)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eventLog keeps the names of events.
type eventLog struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *eventLog) add(_, event string, _ ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = make(map[string]int)
	}
	l.seen[event]++
}

func (l *eventLog) count(event string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[event]
}

// fullDisk is a store whose file system others have filled to the last byte.
type fullDisk struct {
	dir    string // the file system's
	store  *Store
	vm     *VM
	file   *File // of so many blocks, and a snapshot "s" of others before them
	rival  *others
	events eventLog
}

func newFullDisk(t *testing.T, blocks int) *fullDisk {
	t.Helper()
	d := &fullDisk{dir: newDisk(t).mount}
	var err error
	d.store, err = Open(filepath.Join(d.dir, "store"), Options{Event: d.events.add})
	require.NoError(t, err)
	d.vm = makeVM(t, d.store, "web")
	d.file = makeFile(t, d.vm, "root", 16<<20)
	write(t, d.file, blocksOf(1, blocks), 0)
	snapshot(t, d.vm, "s")
	write(t, d.file, blocksOf(2, blocks), 0)
	flush(t, d.file)
	openJournal(t, d.store)
	d.rival = newOthers(t, d.dir)
	d.rival.eat(t)
	require.Eventually(t, func() bool { return d.store.space.take(1) != nil }, time.Minute, time.Millisecond, "a measurement is believed for a moment")
	return d
}

// Every operation on a full disk: what needs room for data is refused and leaves all as it was, and the rest is done.
func TestFullDiskOperations(t *testing.T) {
	d := newFullDisk(t, 100)
	s, v, f := d.store, d.vm, d.file
	defer func() { require.NoError(t, s.Close()) }()
	old, now := viewed(t, v, "s", "root"), content(t, f)
	_, err := Open(filepath.Join(d.dir, "another"), Options{})
	require.ErrorContains(t, err, "no space left on device")
	for what, op := range map[string]func() error{
		"a write over a snapshot": func() error { _, err := f.Write(blocksOf(3, 1), 1000*blockSize, true); return err },
		"a part of a block":       func() error { _, err := f.Write([]byte("x"), 1000*blockSize, true); return err },
		"room":                    func() error { return f.Allocate(0, 2000*blockSize, true) },
		"a snapshot":              func() error { _, err := v.CreateSnapshot(CreateOptions{Name: "t"}); return err },
		"a clone":                 func() error { _, err := v.Clone("s", "copy"); return err },
		"a memory image":          func() error { _, err := s.NewImage(1 << 20); return err },
	} {
		err := op()
		require.Equal(t, syscall.ENOSPC, Errno(err), "%s: %v", what, err)
		requireSame(t, now, content(t, f), "the file after %s", what)
		require.Len(t, v.Snapshots(), 1, what)
		require.Len(t, s.VMs(), 1, what)
	}

	extra := makeFile(t, v, "extra", 1<<20)
	require.NoError(t, v.Rename("extra", "more", 0))
	write(t, f, blocksOf(4, 10), 0) // in place
	require.NoError(t, f.Discard(10*blockSize, 10*blockSize))
	require.NoError(t, f.Zero(20*blockSize, 10*blockSize, true))
	flush(t, f)
	now = content(t, f)
	_, err = v.RenameSnapshot("s", "t")
	require.NoError(t, err)
	_, err = v.Preview(PreviewOptions{Name: "t"})
	require.NoError(t, err)
	requireSame(t, old, content(t, fileNamed(t, v, "root")), "previewed")
	_, err = v.Undo(false)
	require.NoError(t, err)
	requireSame(t, now, content(t, fileNamed(t, v, "root")), "after undo")
	kept := revertTo(t, v, RevertOptions{Name: "t"}).Kept
	requireSame(t, old, content(t, fileNamed(t, v, "root")), "reverted")
	_, err = fileNamed(t, v, "root").Write(blocksOf(5, 1), 0, true)
	require.Equal(t, syscall.ENOSPC, Errno(err), "the first write over a snapshot")
	revertTo(t, v, RevertOptions{Name: kept, Discard: true})
	requireSame(t, now, content(t, fileNamed(t, v, "root")), "back")
	require.NoError(t, v.Unlink("more"))
	require.Error(t, extra.Open(1, true))
	resize(t, fileNamed(t, v, "root"), 50*blockSize)

	drop(t, v, "t", kept)
	settle(t, s)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
	s, err = Open(s.dir, s.opts)
	require.NoError(t, err)
	requireSame(t, now[:50*blockSize], content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "in the end")
}

// What needs room is refused, and everything else goes on, through any number of flushes: the index turns over several
// times. Deleting works, and gives room back.
func TestFullDisk(t *testing.T) {
	d := newFullDisk(t, 1000)
	s, v, f, rival := d.store, d.vm, d.file, d.rival
	defer func() { require.NoError(t, s.Close()) }()
	_, err := f.Write(blocksOf(3, 1), 2000*blockSize, true)
	require.ErrorIs(t, err, syscall.ENOSPC)
	_, err = v.CreateSnapshot(CreateOptions{Name: "t"})
	require.ErrorIs(t, err, syscall.ENOSPC)

	for range 4 {
		for i := range 100 {
			write(t, f, blocksOf(byte(i), 4), int64(i)*blockSize)
			flush(t, f)
		}
		require.NoError(t, turnOver(s))
		require.Eventually(t, s.index.Settled, time.Minute, time.Millisecond)
		s.space.restock(s.index.Settled)
		rival.eat(t)
	}
	require.NotZero(t, d.events.count("ballast-released"))
	t.Logf("the ballast was given up %d times", d.events.count("ballast-released"))

	before := content(t, f)
	require.NoError(t, s.Close(), "a full disk can be closed")
	requireSound(t, s.dir)
	s, err = Open(s.dir, s.opts)
	require.NoError(t, err, "and opened")
	v = vmNamed(t, s, "web")
	f = fileNamed(t, v, "root")
	requireSame(t, before, content(t, f), "the file")
	drop(t, v, "s")
	settle(t, s)
	require.EqualValues(t, 1000*blockSize, s.Stats().LayerBytes)
	require.EqualValues(t, 1000*blockSize, allocated(t, layersDir(s)))

	rival.give(t, 400<<20)
	write(t, f, blocksOf(4, 100), 2000*blockSize)
	snapshot(t, v, "t")
	require.Eventually(t, func() bool { return s.space.ballast.held.Load() == s.space.ballast.want }, time.Minute, time.Millisecond)
}

// Others who take what the ballast gave up: the index refuses what takes room before it has none at all, deleting works
// even then, and everything goes on once there is room.
func TestFullDiskWithoutBallast(t *testing.T) {
	d := newFullDisk(t, 100)
	s, v, f, rival := d.store, d.vm, d.file, d.rival
	defer func() { require.NoError(t, s.Close()) }()
	s.space.ballast.mu.Lock() // for the moment, nobody makes it anew
	_, err := s.space.ballast.releaseLocked(ballastSize)
	require.NoError(t, err)
	rival.eat(t)
	s.space.ballast.mu.Unlock()

	require.ErrorIs(t, turnOver(s), syscall.ENOSPC)
	write(t, f, blocksOf(3, 1), 0)
	require.NoError(t, f.Discard(blockSize, blockSize))
	require.ErrorIs(t, f.Flush(true), syscall.ENOSPC)
	write(t, f, blocksOf(3, 1), 0)
	require.ErrorIs(t, f.Flush(true), syscall.ENOSPC, "a small one is nothing for the journal either: it has no words for the discard")
	_, err = s.CreateVM("db", 0o755, 0, 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	drop(t, v, "s")
	settle(t, s)
	require.EqualValues(t, 99*blockSize, s.Stats().LayerBytes)

	rival.give(t, 400<<20)
	flush(t, f) // the one that was refused has lost nothing
	settle(t, s)
	require.EqualValues(t, 99*blockSize, allocated(t, layersDir(s)))
	require.NoError(t, turnOver(s))
	before := content(t, f)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
	s, err = Open(s.dir, s.opts)
	require.NoError(t, err)
	requireSame(t, before, content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "the file")
}
