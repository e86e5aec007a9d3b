package layer

// A layer that can't be flushed any more: what the journal has of it is there after the next start, and nobody else waits for
// that.

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// losingDisk is a store with two VMs, of one of which the last flush failed, after five that only the journal has.
type losingDisk struct {
	store    *Store
	web, db  []byte // what there must be of their files
	rounds   int
	failures *failure
}

func newLosingDisk(t *testing.T, dir string, o Options) *losingDisk {
	t.Helper()
	d := &losingDisk{failures: &failure{kind: "sync", n: 1}}
	d.failures.install(t)
	d.store = openStore(t, dir, o)
	web := makeFile(t, makeVM(t, d.store, "web"), "root", 40*blockSize)
	db := makeFile(t, makeVM(t, d.store, "db"), "root", 4000*blockSize)
	for _, f := range []*File{web, db} {
		write(t, f, blocksOf(1, 2), 0)
		commit(t, f)
	}
	openJournal(t, d.store)
	before := d.store.journal.position()
	for i := range int64(5) {
		write(t, web, blocksOf(byte(3+i), 2), (5+i)*blockSize)
		flush(t, web)
	}
	require.Equal(t, before+5, d.store.journal.position())
	d.web, d.db = content(t, web), content(t, db)
	d.fail(t, web)
	return d
}

// fail has a flush fail that would have had the index know.
func (d *losingDisk) fail(t *testing.T, f *File) {
	t.Helper()
	d.failures.next("sync", 1)
	requireEIO(t, f.Commit(true))
	require.True(t, d.failures.arm(false))
	require.True(t, d.store.session.hasFailed(f.state.Load().head.id))
}

// next has another thing fail.
func (f *failure) next(kind string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.n, f.count, f.hit, f.armed = kind, n, 0, false, true
}

// others has the other VM flush three times what the ring takes, and says how often that went to the journal.
func (d *losingDisk) others(t *testing.T) (records int) {
	t.Helper()
	f := fileNamed(t, vmNamed(t, d.store, "db"), "root")
	before := d.store.journal.position()
	for range 3 * journalSlots / 2 {
		d.rounds++
		p, at := pattern(uint64(d.rounds), blockSize), int64(d.rounds)*blockSize
		write(t, f, p, at)
		flush(t, f)
		copy(d.db[at:], p)
	}
	return int(d.store.journal.position() - before)
}

func (d *losingDisk) requireAll(t *testing.T, s *Store, when string) {
	t.Helper()
	requireSame(t, d.web, content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "the VM whose disk failed, %s", when)
	requireSame(t, d.db, content(t, fileNamed(t, vmNamed(t, s, "db"), "root")), "the other VM, %s", when)
}

// awaitRoom waits until the journal can be used, and the failed layer holds nothing up.
func (d *losingDisk) awaitRoom(t *testing.T) {
	t.Helper()
	j := d.store.journal
	require.Eventually(t, func() bool {
		j.ask()
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.open.Load() && j.used <= journalSlots/2
	}, time.Minute, time.Millisecond)
}

func TestFailedLayerHoldsUpNobody(t *testing.T) {
	base := t.TempDir()
	d := newLosingDisk(t, filepath.Join(base, "0"), Options{})
	for i, again := range []func(){
		func() {},
		func() { d.store = takeOver(t, d.store) },
		func() { d.store = takeOver(t, d.store) },
	} {
		again()
		d.awaitRoom(t)
		require.Greater(t, d.others(t), journalSlots, "most flushes go to the journal, round %d", i)
		requireEIO(t, fileNamed(t, vmNamed(t, d.store, "web"), "root").Flush(true))
	}
	require.FileExists(t, filepath.Join(d.store.dir, keptName))
	s := kill(t, d.store, filepath.Join(base, "1"))
	d.requireAll(t, s, "after a crash")
	openJournal(t, s)
	require.NoFileExists(t, filepath.Join(s.dir, keptName), "all of it is in the index")
	s = kill(t, s, filepath.Join(base, "2"))
	d.requireAll(t, s, "after another one")
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// The next start's flush fails, too: what was moved is moved again.
func TestLayerFailsTwice(t *testing.T) {
	base := t.TempDir()
	d := newLosingDisk(t, filepath.Join(base, "0"), Options{})
	d.others(t)
	d.awaitRoom(t)
	for i := range 3 {
		d.store = kill(t, d.store, filepath.Join(base, fmt.Sprint(i+1)))
		d.requireAll(t, d.store, "after a crash")
		f := fileNamed(t, vmNamed(t, d.store, "web"), "root")
		if !d.store.session.hasFailed(f.state.Load().head.id) {
			p := blocksOf(byte(50+i), 1)
			openJournal(t, d.store)
			write(t, f, p, int64(20+i)*blockSize)
			flush(t, f)
			copy(d.web[(20+i)*blockSize:], p)
			d.fail(t, f)
		}
		d.awaitRoom(t)
		require.Greater(t, d.others(t), journalSlots)
	}
	d.store = kill(t, d.store, filepath.Join(base, "last"))
	d.requireAll(t, d.store, "at last")
}

// Each thing that is asked of the host while records are moved fails once: nothing is lost, and they are moved later.
func TestKeptFailures(t *testing.T) {
	hits := 0
	for _, kind := range []string{"read", "write", "sync", "create", "rename", "commit"} {
		hits += eachNth(func(n int) bool {
			base := t.TempDir()
			d := newLosingDisk(t, filepath.Join(base, "0"), Options{})
			again, hit := d.keep(t, kind, n, filepath.Join(base, "1"))
			d.requireAll(t, again, fmt.Sprintf("after %s %d", kind, n))
			require.NoError(t, again.Close())
			requireSound(t, again.dir)
			return hit
		})
	}
	require.GreaterOrEqual(t, hits, 6)
	t.Logf("%d failures", hits)
}

// keep moves what the journal has of the layer that failed, with another failure, and a crash behind that.
func (d *losingDisk) keep(t *testing.T, kind string, n int, to string) (again *Store, hit bool) {
	t.Helper()
	f, s := d.failures, d.store
	s.closing.Do(func() {
		abandonWork(s)
		f.next(kind, n)
		err := s.keepRecords([]LayerID{fileNamed(t, vmNamed(t, s, "web"), "root").state.Load().head.id})
		hit = f.arm(false)
		require.True(t, hit || err == nil, "%s %d: %v", kind, n, err) // the number of the commit may lag
		copyStore(t, s.dir, to)
		s.closed = s.release()
	})
	return openStore(t, to, Options{}), hit
}

// What was moved is gone, or damaged: the store is refused, and says so; a repair goes on without.
func TestRepairOfTheKept(t *testing.T) {
	base := t.TempDir()
	d := newLosingDisk(t, filepath.Join(base, "0"), Options{})
	d.others(t)
	d.awaitRoom(t)
	dir := filepath.Join(base, "1")
	abandonWork(d.store)
	copyStore(t, d.store.dir, dir)
	d.store.closing.Do(func() { d.store.closed = d.store.release() })
	kept, err := os.ReadFile(filepath.Join(dir, keptName))
	require.NoError(t, err)
	for what, do := range map[string]func(path string) error{
		"is missing": os.Remove,
		"is damaged": func(path string) error { return os.WriteFile(path, damaged(kept, 2), 0o600) },
		"damaged":    func(path string) error { return os.WriteFile(path, kept[:len(kept)-2*blockSize], 0o600) },
		"kept is":    func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		dir := copied(t, dir)
		require.NoError(t, do(filepath.Join(dir, keptName)))
		_, err := Open(dir, Options{})
		requireEIO(t, err)
		require.ErrorContains(t, err, what)
		t.Log(err)
		report := repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Len(t, report.Repaired, 1)
		s := openStore(t, dir, Options{})
		requireSame(t, d.db, content(t, fileNamed(t, vmNamed(t, s, "db"), "root")), "the other VM")
		require.NoError(t, s.Close())
	}
}

// The disk fails while a record is written, and once more while the flush goes the long way: nobody was promised what was in it, and the
// journal is renewed all the same.
func TestFailedRecordHoldsUpNobody(t *testing.T) {
	var fails atomic.Bool
	fault = func(kind string) error {
		if kind == "sync" && fails.Load() {
			return unix.EIO
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })
	s := newStore(t, Options{})
	web := makeFile(t, makeVM(t, s, "web"), "root", 40*blockSize)
	write(t, web, blocksOf(1, 2), 0)
	commit(t, web)
	openJournal(t, s)
	before := s.journal.position()
	write(t, web, blocksOf(2, 1), 5*blockSize)
	flush(t, web)
	require.Equal(t, before+1, s.journal.position())
	want := content(t, web)
	fails.Store(true)
	write(t, web, blocksOf(3, 1), 6*blockSize)
	requireEIO(t, web.Flush(true))
	fails.Store(false)
	openJournal(t, s) // as a flush of any other VM does
	s = kill(t, s, filepath.Join(t.TempDir(), "copy"))
	got := content(t, fileNamed(t, vmNamed(t, s, "web"), "root"))
	requireSame(t, want[:6*blockSize], got[:6*blockSize], "what was flushed")
}
