package layer

// What the tests of this package share: a store in a temporary directory, and short ways to do things to it.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMain keeps random tests short unless -rapid.checks or -rapid.steps asks for more, and is the process that crash
// tests kill.
func TestMain(m *testing.M) {
	journalSlots = 128 // so that it wraps, and is full now and then
	if arg := os.Getenv(victimEnv); arg != "" {
		victim(arg)
	}
	for name, value := range map[string]string{"rapid.checks": "6", "rapid.steps": "40"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	retryEvery, journalPause = 5*time.Millisecond, 200*time.Millisecond
	oneInWished, windowsLooked = 1, 5*time.Millisecond
	os.Exit(m.Run())
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	require.TestingT
	Helper()
	Logf(format string, args ...any)
}

// oneIn says whether to do this one of a row of cases that have one thread each: under the race detector, which has seen all
// of it after a few, one in n.
func oneIn(n int) bool { return !testing.Short() || rand.IntN(n) == 0 }

// openStore opens a store that the test closes.
func openStore(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newStore makes a store of its own for a test.
func newStore(t *testing.T, o Options) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"), o)
}

// reopen closes a store and opens it again.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	require.NoError(t, s.Close())
	return openStore(t, s.dir, s.opts)
}

// openJournal waits until small flushes go to the journal.
func openJournal(t tester, s *Store) {
	t.Helper()
	s.journal.ask()
	require.Eventually(t, s.journal.open.Load, time.Minute, 100*time.Microsecond)
}

// awaitBallast waits for the ballast, whose making syncs.
func awaitBallast(t tester, s *Store) {
	t.Helper()
	b := s.space.ballast
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.held.Load() >= b.want
	}, time.Minute, time.Millisecond)
}

func makeVM(t tester, s *Store, name string) *VM {
	t.Helper()
	v, err := s.CreateVM(name, 0o755, 0, 0)
	require.NoError(t, err)
	return v
}

func makeFile(t tester, v *VM, name string, size int64) *File {
	t.Helper()
	f, created, err := v.Create(name, 0o644, 0, 0, true)
	require.NoError(t, err)
	require.True(t, created)
	if size > 0 {
		resize(t, f, size)
	}
	return f
}

func vmNamed(t tester, s *Store, name string) *VM {
	t.Helper()
	v, err := s.VM(name)
	require.NoError(t, err)
	return v
}

func fileNamed(t tester, v *VM, name string) *File {
	t.Helper()
	f, err := v.Lookup(name)
	require.NoError(t, err)
	return f
}

func resize(t tester, f *File, size int64) {
	t.Helper()
	_, err := f.SetAttr(SetAttr{Size: &size})
	require.NoError(t, err)
}

// write writes as the file system does: it tries without waiting first.
func write(t tester, f *File, p []byte, off int64) {
	t.Helper()
	n, err := f.Write(p, off, false)
	if err == ErrWait {
		n, err = f.Write(p, off, true)
	}
	require.NoError(t, err)
	require.Equal(t, len(p), n)
}

// requireJournaled sees to it that a random test has flushed to the journal; the few runs of a short one need not.
func requireJournaled(t *testing.T, records uint64) {
	t.Helper()
	if !testing.Short() {
		require.NotZero(t, records, "flushes went to the journal")
	}
}

// commit flushes, and has the index know.
func commit(t tester, f *File) {
	t.Helper()
	require.NoError(t, f.Commit(true))
}

func flush(t tester, f *File) {
	t.Helper()
	require.NoError(t, f.Flush(true))
}

func snapshot(t tester, v *VM, name string, files ...string) {
	t.Helper()
	_, err := v.CreateSnapshot(CreateOptions{Name: name, Files: files})
	require.NoError(t, err)
}

// longAfterFlushes has a snapshot take the VM's guest for one that does not flush.
func longAfterFlushes(v *VM) { v.flushed.Store(0) }

func revertTo(t tester, v *VM, o RevertOptions) RevertResult {
	t.Helper()
	r, err := v.Revert(o)
	require.NoError(t, err)
	return r
}

func drop(t tester, v *VM, names ...string) {
	t.Helper()
	_, err := v.DeleteSnapshots(names)
	require.NoError(t, err)
}

// content reads a whole file.
func content(t tester, f *File) []byte {
	t.Helper()
	return readAll(t, f, f.Attr().Size)
}

// viewed reads a whole file of a snapshot.
func viewed(t tester, v *VM, snapshot, file string) []byte {
	t.Helper()
	n, err := v.Snapshot(snapshot)
	require.NoError(t, err)
	w, err := n.View(file)
	require.NoError(t, err)
	require.NoError(t, w.Open(viewHandle))
	defer w.Close(viewHandle)
	return readAll(t, w, w.Attr().Size)
}

const viewHandle = Handle(1 << 62)

// fileReader is a file, as it is or as a snapshot has it.
type fileReader interface {
	Read([]byte, int64) (int, error)
	TryRead([]byte, int64) ([]byte, Loan, error)
}

// tryOrWait reads as a mount does: what is at hand, or else the disk is waited for.
func tryOrWait(f fileReader, p []byte, off int64) (int, error) {
	data, lent, err := f.TryRead(p, off)
	if err == ErrWait {
		return f.Read(p, off)
	}
	if lent.Any() {
		copy(p, data)
		lent.GiveBack()
	}
	return len(data), err
}

func readAll(t tester, from fileReader, size int64) []byte {
	t.Helper()
	p := make([]byte, size+1) // asks for more than there is
	n, err := tryOrWait(from, p, 0)
	require.NoError(t, err)
	require.Equal(t, size, int64(n), "a read is short at the end only")
	return p[:n]
}

// requireSame compares contents and names the first block that differs, not megabytes of both.
func requireSame(t tester, want, got []byte, what string, args ...any) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	what = fmt.Sprintf(what, args...)
	require.Equal(t, len(want), len(got), "size of %s", what)
	i := 0
	for want[i] == got[i] {
		i++
	}
	end := min(i+16, len(want))
	require.Failf(t, "contents differ", "%s at %d (block %d): want %x, got %x", what, i, i/blockSize, want[i:end], got[i:end])
}

// blocksOf makes n blocks of recognisable bytes that are nowhere zero.
func blocksOf(seed byte, n int) []byte { return pattern(uint64(seed), n*blockSize) }

// pattern makes n bytes, none of them zero, from a seed.
func pattern(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64()|0x0101010101010101)
	}
	return p[:n:n]
}

// settle waits until nothing is left to reclaim: the queue is empty and its last job done.
func settle(t tester, s *Store) {
	t.Helper()
	r := s.reclaim
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !idle(r) || s.images.first() != nil {
			time.Sleep(time.Millisecond)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		require.FailNow(t, "reclaim does not come to an end")
	}
}

// idle says whether the reclaimer waits for work: it gives the memory of its queues back before it does.
func idle(r *reclaimer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue == nil && r.later == nil && len(r.queued) == 0
}

// requireSound checks a closed store.
func requireSound(t tester, dir string) {
	t.Helper()
	report, err := Check(dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
}

// allocated is how much of a directory's files is no hole, in bytes; st_blocks would count extent trees, too.
func allocated(t tester, dir string) (bytes int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		f, err := os.Open(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		eachExtent(t, f, func(start, end int64) { bytes += end - start })
		require.NoError(t, f.Close())
	}
	return bytes
}

// eachExtent calls fn for each range of a file that is no hole.
func eachExtent(t tester, f *os.File, fn func(start, end int64)) {
	t.Helper()
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return
		}
		require.NoError(t, err)
		end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err == unix.ENXIO {
			return // it was cut off meanwhile, as files of an open index may be
		}
		require.NoError(t, err)
		fn(start, end)
	}
}

// eachBlock calls fn for each block of a file that is not zero; reading holes is what takes time.
func eachBlock(t tester, path string, fn func(off int64, p []byte)) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	block, zeros := make([]byte, blockSize), make([]byte, blockSize)
	eachExtent(t, f, func(start, end int64) {
		for off := start; off < end; off += blockSize {
			p := block[:min(blockSize, end-off)]
			_, err := f.ReadAt(p, off)
			require.NoError(t, err)
			if !bytes.Equal(p, zeros[:len(p)]) {
				fn(off, p)
			}
		}
	})
}

// layersDir is where a store keeps data files.
func layersDir(s *Store) string { return filepath.Join(s.dir, layersName) }

// copyTree copies a directory as it is, holes as holes.
func copyTree(t tester, from, to string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o700))
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, entry := range entries {
		src, dst := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		if entry.IsDir() {
			copyTree(t, src, dst)
		} else {
			copySparse(t, src, dst)
		}
	}
}

func copySparse(t tester, from, to string) {
	t.Helper()
	require.NoError(t, tryCopySparse(t, from, to))
}

func tryCopySparse(t tester, from, to string) error {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	require.NoError(t, err)
	dst, err := os.Create(to)
	require.NoError(t, err)
	defer dst.Close()
	require.NoError(t, dst.Truncate(info.Size()))
	eachExtent(t, src, func(start, end int64) {
		if _, copyErr := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); copyErr != nil {
			err = copyErr
		}
	})
	return err
}

// kill ends a store as SIGKILL ends its process, and opens what that leaves: nothing is flushed, and what the index and
// the data files have is copied while the store is still open.
func kill(t tester, s *Store, to string) *Store {
	t.Helper()
	s.closing.Do(func() {
		abandonWork(s)
		copyStore(t, s.dir, to)
		s.closed = s.release()
	})
	requireEnd(t, to)
	o := s.opts
	o.Session = nil
	again, err := Open(to, o)
	require.NoError(t, err)
	closeAfter(t, again)
	return again
}

// takeOver ends a store as SIGKILL ends a worker, and opens it as the next one does: with its session.
func takeOver(t tester, s *Store) *Store {
	t.Helper()
	s.closing.Do(func() {
		abandonWork(s)
		s.closed = s.release()
	})
	require.NoError(t, s.closed)
	o := s.opts
	o.Session = s.session
	again, err := Open(s.dir, o)
	require.NoError(t, err)
	closeAfter(t, again)
	return again
}

// closeAfter closes a store after a test: its goroutines would meet the next one's faults. A rapid test closes its own.
func closeAfter(t tester, s *Store) {
	if t, ok := t.(*testing.T); ok {
		t.Cleanup(func() { _ = s.Close() })
	}
}

// copyStore copies what is left of a store after a crash.
func copyStore(t tester, from, to string) {
	t.Helper()
	copyTree(t, filepath.Join(from, layersName), filepath.Join(to, layersName))
	if memory := filepath.Join(from, imagesName); exists(memory) {
		copyTree(t, memory, filepath.Join(to, imagesName))
	}
	copySparse(t, filepath.Join(from, formatName), filepath.Join(to, formatName))
	for _, name := range []string{markName, keptName, journalName} { // the mark first: it may lag
		if path := filepath.Join(from, name); exists(path) {
			copySparse(t, path, filepath.Join(to, name))
		}
	}
	copySparse(t, filepath.Join(from, commitsName), filepath.Join(to, commitsName)) // before the index: it may lag
	copyIndex(t, filepath.Join(from, indexName), filepath.Join(to, indexName))
	copyTree(t, filepath.Join(from, sumsName), filepath.Join(to, sumsName)) // after the index: it names those that are whole
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// abandonWork ends what runs in the background, wherever it is.
func abandonWork(s *Store) {
	close(s.stop)
	s.reclaim.close()
	s.work.end()
}

// copyIndex copies an open index that nobody writes to; again, if the database rearranged its files meanwhile.
func copyIndex(t tester, from, to string) {
	t.Helper()
	for copied := false; !copied; {
		require.NoError(t, os.RemoveAll(to))
		require.NoError(t, os.Mkdir(to, 0o700))
		before := listing(t, from)
		entries, err := os.ReadDir(from)
		require.NoError(t, err)
		for _, entry := range entries {
			err = errors.Join(err, tryCopySparse(t, filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())))
		}
		copied = err == nil && listing(t, from) == before
	}
}

// listing changes whenever a file of a directory does, but for what is written through mappings.
func listing(t tester, dir string) string {
	t.Helper()
	var all strings.Builder
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			fmt.Fprintln(&all, info.Name(), info.Size(), info.ModTime())
		}
	}
	return all.String()
}

// requireWhole sees to it that files and snapshots read as they did, but for blocks that are errors, and returns which have such.
func requireWhole(t *testing.T, s *Store, whole map[string][][]byte) (lost map[string]bool) {
	t.Helper()
	lost = make(map[string]bool)
	for object, want := range whole {
		for i, block := range readBlockwise(t, s, object) {
			if block == nil {
				lost[object] = true
				continue
			}
			requireSame(t, want[i], block, "block %d of %s", i, object)
		}
	}
	return lost
}

// restoreAndTell is RestoreIndex for somebody who is told what is gone.
func restoreAndTell(dir string, force bool) (RestoreReport, error) {
	report, err := RestoreIndex(dir, force)
	if err == nil {
		err = Told(dir)
	}
	return report, err
}

// repairAndTell is Repair likewise.
func repairAndTell(dir string) (Report, error) {
	report, err := Repair(dir)
	if err == nil && report.Untold {
		err = Told(dir)
	}
	return report, err
}
