package layer

// Flushes to the journal, what follows them, and a power cut: what was flushed is there, and nothing of before it.

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// journaled is a store with a VM "web" that has a snapshot "s" of a file, and what there must be of the file.
type journaled struct {
	disk  *disk
	dir   string
	store *Store
	vm    *VM
	file  *File
	want  []byte
	seed  uint64
}

const journaledBlocks = 400

func newJournaled(t tester, d *disk, name string) *journaled {
	t.Helper()
	w := &journaled{disk: d, dir: filepath.Join(d.mount, name), want: make([]byte, journaledBlocks*blockSize)}
	w.open(t, Options{})
	w.file = makeFile(t, w.vm, "root", journaledBlocks*blockSize)
	w.write(t, 0, 100)
	snapshot(t, w.vm, "s")
	w.write(t, 0, 1)
	flush(t, w.file) // the index knows the data file
	openJournal(t, w.store)
	return w
}

func (w *journaled) open(t tester, o Options) {
	t.Helper()
	var err error
	w.store, err = Open(w.dir, o)
	require.NoError(t, err)
	w.find(t)
}

func (w *journaled) find(t tester) {
	t.Helper()
	var err error
	if w.vm, err = w.store.VM("web"); err != nil {
		w.vm = makeVM(t, w.store, "web")
	} else {
		w.file = fileNamed(t, w.vm, "root")
	}
}

// write writes blocks that never were before.
func (w *journaled) write(t tester, block, n int) {
	t.Helper()
	w.seed++
	p := pattern(w.seed, n*blockSize)
	write(t, w.file, p, int64(block)*blockSize)
	copy(w.want[block*blockSize:], p)
}

// small writes a block, and has it flushed to the journal.
func (w *journaled) small(t tester, block int) {
	t.Helper()
	before := w.store.journal.position()
	w.write(t, block, 1)
	flush(t, w.file)
	require.Equal(t, before+1, w.store.journal.position(), "it went to the journal")
}

func (w *journaled) clear(from, to int) { clear(w.want[from*blockSize : to*blockSize]) }

func (w *journaled) compare(t tester, when string) {
	t.Helper()
	w.file.awaitVoid()
	requireSame(t, w.want, content(t, w.file), "%s", when)
}

// cut has the power fail, with some of what was not synced on the disk, and goes on. What runs in the background is ended
// first, or, if that waits for something, by end afterwards.
func (w *journaled) cut(t tester, end func(), o Options) {
	t.Helper()
	w.store.closing.Do(func() {
		if end == nil {
			abandonWork(w.store)
		}
		writeBackSome(t, w.store)
		image := w.disk.cut(t)
		if end != nil {
			end()
			abandonWork(w.store)
		}
		w.store.closed = w.store.release()
		w.disk.restart(t, image)
	})
	w.open(t, o)
}

// journaledCases are what follows flushes to the journal. What a case returns comes after the cut.
var journaledCases = map[string]func(t *testing.T, w *journaled) (after func()){
	"a new block": func(t *testing.T, w *journaled) func() { w.small(t, 1); return nil },
	"the same block, again and again": func(t *testing.T, w *journaled) func() {
		for range 5 {
			w.small(t, 1)
		}
		return nil
	},
	"something that is not flushed": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		old := bytes.Clone(w.want)
		w.write(t, 1, 1)
		return func() {
			if now := content(t, w.file); bytes.Equal(old, now) {
				w.want = old
			}
		}
	},
	"a commit, and a sync of its data alone": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		require.NoError(t, w.file.Commit(true))
		before := w.store.journal.position()
		w.write(t, 1, 1)
		flush(t, w.file)
		require.Equal(t, before, w.store.journal.position())
		return nil
	},
	"a flush of much": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		w.write(t, 0, 90)
		flush(t, w.file)
		return nil
	},
	"a discard": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		w.small(t, 200)
		require.NoError(t, w.file.Discard(0, 300*blockSize))
		flush(t, w.file)
		w.clear(0, 300)
		return nil
	},
	"a discard, and the same block again": func(t *testing.T, w *journaled) func() {
		w.small(t, 200)
		require.NoError(t, w.file.Discard(200*blockSize, blockSize))
		flush(t, w.file)
		w.write(t, 201, 1)
		w.small(t, 200)
		return nil
	},
	"a discard that is not flushed": func(t *testing.T, w *journaled) func() {
		w.small(t, 200)
		require.NoError(t, w.file.Discard(200*blockSize, blockSize))
		return nil
	},
	"a snapshot": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		snapshot(t, w.vm, "t")
		old := bytes.Clone(w.want)
		w.write(t, 1, 1)
		flush(t, w.file)
		w.small(t, 2)
		return func() { requireSame(t, old, viewed(t, w.vm, "t", "root"), "the snapshot") }
	},
	"a snapshot of which nothing is flushed ahead": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		longAfterFlushes(w.vm)
		snapshot(t, w.vm, "t")
		old := bytes.Clone(w.want)
		w.small(t, 2)
		return func() { requireSame(t, old, viewed(t, w.vm, "t", "root"), "the snapshot") }
	},
	"a revert": func(t *testing.T, w *journaled) func() {
		old := viewed(t, w.vm, "s", "root")
		w.small(t, 1)
		left := bytes.Clone(w.want)
		kept := revertTo(t, w.vm, RevertOptions{Name: "s"}).Kept
		w.find(t)
		copy(w.want, old)
		w.write(t, 3, 1)
		flush(t, w.file)
		w.small(t, 4)
		return func() { requireSame(t, left, viewed(t, w.vm, kept, "root"), "what was left") }
	},
	"a revert that keeps nothing": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		copy(w.want, viewed(t, w.vm, "s", "root"))
		revertTo(t, w.vm, RevertOptions{Name: "s", Discard: true})
		w.find(t)
		return nil
	},
	"a preview, and back": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		left := bytes.Clone(w.want)
		_, err := w.vm.Preview(PreviewOptions{Name: "s"})
		require.NoError(t, err)
		w.find(t)
		for i := range 3 {
			write(t, w.file, blocksOf(9, 1), int64(i)*blockSize)
			flush(t, w.file)
		}
		_, err = w.vm.Undo(false)
		require.NoError(t, err)
		w.find(t)
		copy(w.want, left)
		w.write(t, 7, 1)
		flush(t, w.file)
		w.small(t, 8)
		return nil
	},
	"a preview that stays": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		copy(w.want, viewed(t, w.vm, "s", "root"))
		_, err := w.vm.Preview(PreviewOptions{Name: "s"})
		require.NoError(t, err)
		w.find(t)
		w.write(t, 0, 1)
		flush(t, w.file)
		w.small(t, 2)
		_, err = w.vm.CommitPreview()
		require.NoError(t, err)
		w.small(t, 3)
		return nil
	},
	"a shrink, and growing again": func(t *testing.T, w *journaled) func() {
		w.small(t, 10)
		w.small(t, 300)
		resize(t, w.file, 5*blockSize+100)
		clear(w.want[5*blockSize+100:])
		resize(t, w.file, journaledBlocks*blockSize)
		w.file.awaitVoid()
		w.small(t, 11)
		return nil
	},
	"a new file of the same name": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		require.NoError(t, w.vm.Unlink("root"))
		w.file = makeFile(t, w.vm, "root", journaledBlocks*blockSize)
		w.clear(0, journaledBlocks)
		w.write(t, 5, 1)
		flush(t, w.file)
		w.small(t, 6)
		return nil
	},
	"a clone": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		old := viewed(t, w.vm, "s", "root")
		_, err := w.vm.Clone("s", "copy")
		require.NoError(t, err)
		clone := fileNamed(t, vmNamed(t, w.store, "copy"), "root")
		for i := range 3 {
			p := blocksOf(byte(i), 1)
			write(t, clone, p, int64(i)*blockSize)
			flush(t, clone)
			copy(old[i*blockSize:], p)
		}
		return func() {
			requireSame(t, old, content(t, fileNamed(t, vmNamed(t, w.store, "copy"), "root")), "the clone")
		}
	},
	"more than the ring takes": func(t *testing.T, w *journaled) func() {
		for i := range 390 {
			w.write(t, i, 1+i%9)
			flush(t, w.file)
		}
		require.Greater(t, w.store.journal.position(), uint64(100))
		return nil
	},
	"a take-over": func(t *testing.T, w *journaled) func() {
		w.small(t, 1)
		w.small(t, 201)
		w.write(t, 1, 1) // newer than what the journal has
		w.store = takeOver(t, w.store)
		w.find(t)
		w.compare(t, "after the take-over")
		w.write(t, 202, 1)
		flush(t, w.file)
		return nil
	},
	"take-overs, and the journal again": func(t *testing.T, w *journaled) func() {
		for i := range 3 {
			w.small(t, 200+i)
			w.store = takeOver(t, w.store)
			w.find(t)
			openJournal(t, w.store)
		}
		w.small(t, 250)
		return nil
	},
	"a VM that is frozen while another one flushes": func(t *testing.T, w *journaled) func() {
		db := makeFile(t, makeVM(t, w.store, "db"), "data", 300*blockSize)
		w.small(t, 1)
		old := bytes.Clone(w.want)
		p, err := w.vm.PrepareSnapshot(CreateOptions{Name: "t"})
		require.NoError(t, err)
		before := w.store.journal.position()
		p.Swap()
		for i := range 200 {
			write(t, db, blocksOf(byte(i), 1), int64(i)*blockSize)
			flush(t, db)
		}
		require.Greater(t, w.store.journal.position(), before+10)
		want := content(t, db)
		w.write(t, 2, 1)
		w.cut(t, func() { _, err := p.Seal(nil); require.NoError(t, err) }, Options{})
		w.want = old
		require.Len(t, w.vm.Snapshots(), 1)
		return func() {
			requireSame(t, want, content(t, fileNamed(t, vmNamed(t, w.store, "db"), "data")), "the other VM's")
		}
	},
}

func TestJournalThenPowerCut(t *testing.T) {
	d := newDisk(t)
	i := 0
	for name, do := range journaledCases {
		i++
		if !oneIn(4) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			w := newJournaled(t, d, fmt.Sprint(i))
			defer func() { _ = w.store.Close(); _ = os.RemoveAll(w.dir) }()
			after := do(t, w)
			for _, when := range []string{"after the cut", "after another"} {
				w.cut(t, nil, Options{})
				if after != nil {
					after()
				}
				w.compare(t, when)
			}
			openJournal(t, w.store)
			w.write(t, 0, 1)
			flush(t, w.file)
			w.write(t, 399, 1)
			flush(t, w.file)
			require.NoError(t, w.store.Close())
			requireSound(t, w.dir)
			w.open(t, Options{})
			w.compare(t, "in the end")
		})
	}
}

// A write that is under way while a flush commits is in the next flush, even if that finds the list of blocks and what is
// dirty in the middle of it.
func TestJournalTakesWhatACommitMissed(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 40*blockSize)
	write(t, f, blocksOf(1, 1), 0)
	flush(t, f)
	openJournal(t, s)
	for i := range int64(10) {
		st := f.state.Load()
		w := st.head.writer()
		write(t, f, blocksOf(2, 1), (10+i)*blockSize)
		st.chain.LockRegion(0) // the write stops where it would take the block over
		done := make(chan error)
		go func() { _, err := f.Write(blocksOf(3, 1), (20+i)*blockSize, true); done <- err }()
		require.Eventually(t, func() bool {
			info, err := os.Stat(filepath.Join(layersDir(s), fileName(st.head.id)))
			return err == nil && info.Size() > (20+i)*blockSize && w.unsynced.Load() > 0
		}, time.Minute, time.Millisecond)
		time.Sleep(5 * time.Millisecond)
		require.NoError(t, f.Commit(true))
		st.chain.UnlockRegion(0)
		require.NoError(t, <-done)
		before := s.journal.position()
		flush(t, f)
		require.Equal(t, before+1, s.journal.position())
		write(t, f, blocksOf(2, 1), 0)
		require.NoError(t, f.Commit(true))
	}
}

// Whatever a journal had before a start, nothing of it is left when the first record after it is written: the newest may
// be torn, and the next start goes by what is older.
func TestJournalIsNewAfterAStart(t *testing.T) {
	d := newDisk(t)
	w := newJournaled(t, d, "store")
	defer func() { _ = w.store.Close() }()
	for i, again := range []func(){
		func() { w.cut(t, nil, Options{}) },
		func() { w.store = takeOver(t, w.store); w.find(t) },
		func() { require.NoError(t, w.store.Close()); w.open(t, Options{}) },
	} {
		w.small(t, 200+2*i)
		records, err := parse(bytesOf(t, w.dir))
		require.NoError(t, err)
		require.NotEmpty(t, records)
		again()
		openJournal(t, w.store)
		records, err = parse(bytesOf(t, w.dir))
		require.NoError(t, err)
		require.Empty(t, records)
		w.write(t, 0, 1)
		w.write(t, 201+2*i, 1)
		require.NoError(t, w.file.Commit(true))
	}
}

// A flush that does not wait goes to the journal, too; and it is EIO on a layer that has lost something.
func TestTryFlushToJournal(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 40*blockSize)
	write(t, f, blocksOf(1, 1), 0)
	flush(t, f)
	openJournal(t, s)
	write(t, f, blocksOf(2, 1), blockSize)
	before := s.journal.position()
	require.NoError(t, tryFlush(f))
	require.Equal(t, before+1, s.journal.position())
	require.NoError(t, f.Discard(0, blockSize))
	require.ErrorIs(t, tryFlush(f), ErrWait)
	flush(t, f)
	write(t, f, blocksOf(2, 1), 2*blockSize)
	s.fail(f.state.Load().head)
	require.NotNil(t, tryFlush(f))
	requireEIO(t, f.Flush(true))
	require.Equal(t, before+1, s.journal.position())
}

// Writers that flush each of their writes, commits, snapshots and reclaim at the same time, and then a crash, or a worker
// that takes over: all of it is there.
func TestConcurrentFlushesToJournal(t *testing.T) {
	base := t.TempDir()
	s := openStore(t, filepath.Join(base, "0"), Options{})
	const sectors, writers, disks = 800, 2, 6
	v := makeVM(t, s, "web")
	var files []*stamped
	for i := range disks {
		files = append(files, newStamped(makeFile(t, v, fmt.Sprintf("disk%d", i), sectors*sector), sectors))
	}
	records := uint64(0)
	for round := range 12 {
		openJournal(t, s)
		from := s.journal.position()
		var c crew
		for _, f := range files {
			for w := range writers {
				c.run(40, func(r *rand.Rand, _ int) error {
					return errors.Join(f.write(r.IntN(sectors/writers)*writers+w), f.file.Flush(true))
				})
			}
			c.run(4, func(*rand.Rand, int) error { return f.file.Commit(true) })
		}
		c.run(2, func(_ *rand.Rand, i int) error {
			name := fmt.Sprintf("s%d-%d", round, i)
			if i == 0 {
				longAfterFlushes(v)
			}
			_, err := v.CreateSnapshot(CreateOptions{Name: name})
			if i == 1 {
				_, dropErr := v.DeleteSnapshots([]string{name})
				err = errors.Join(err, dropErr)
			}
			return err
		})
		c.wait(t)
		records += s.journal.position() - from
		if round%3 == 2 {
			s = takeOver(t, s)
		} else {
			s = kill(t, s, filepath.Join(base, fmt.Sprint(round+1)))
		}
		v = vmNamed(t, s, "web")
		for i, f := range files {
			f.file = fileNamed(t, v, fmt.Sprintf("disk%d", i))
			require.NoError(t, f.read(0, sectors))
		}
	}
	require.NotZero(t, records)
	t.Logf("%d flushes to the journal", records)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}
