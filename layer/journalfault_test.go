package layer

// Everything that is asked of the host for the journal fails once, and a crash follows: what was flushed is there.

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashedJournaled makes a store that a power cut has left: of five blocks of web/root, only the journal has what they are.
func crashedJournaled(t *testing.T) (dir string, want []byte) {
	t.Helper()
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 40*blockSize)
	write(t, f, blocksOf(1, 10), 0)
	snapshot(t, v, "s")
	write(t, f, blocksOf(2, 1), 0)
	flush(t, f)
	openJournal(t, s)
	before := s.journal.position()
	for i := range int64(5) {
		write(t, f, blocksOf(byte(3+i), 2), (5+3*i)*blockSize)
		flush(t, f)
	}
	require.Equal(t, before+5, s.journal.position())
	dir = filepath.Join(t.TempDir(), "crashed")
	copyStore(t, s.dir, dir)
	data, err := os.OpenFile(filepath.Join(dir, layersName, fileName(f.state.Load().head.id)), os.O_WRONLY, 0)
	require.NoError(t, err)
	defer data.Close()
	require.NoError(t, data.Truncate(blockSize))
	rebooted(t, dir)
	want = content(t, f)
	require.NoError(t, s.Close()) // or it would go on beside the faults
	return dir, want
}

func requireRoot(t *testing.T, s *Store, want []byte, what string, args ...any) {
	t.Helper()
	requireSame(t, want, content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), what, args...)
}

// afterwards opens a store without a fault, twice, and finds what there must be.
func afterwards(t *testing.T, dir string, want []byte, what string, args ...any) {
	t.Helper()
	for range 2 {
		s, err := Open(dir, Options{})
		require.NoError(t, err)
		requireRoot(t, s, want, what, args...)
		require.NoError(t, s.Close())
		requireSound(t, dir)
	}
}

var journalFaults = []string{"read", "write", "sync", "open", "create", "rename", "statfs", "commit"}

// eachFailure calls run for the n-th thing of each kind, until there is none.
func eachFailure(t *testing.T, least int, run func(t *testing.T, f *failure)) {
	hits := 0
	for _, kind := range journalFaults {
		hits += eachNth(func(n int) bool {
			f := &failure{kind: kind, n: n}
			fault, commitFault = f.ask, f.commit
			run(t, f)
			fault, commitFault = nil, nil
			return f.hit
		})
	}
	if *every {
		require.GreaterOrEqual(t, hits, least)
	}
	require.NotZero(t, hits)
	t.Logf("%d failures", hits)
}

func TestJournalReplayFailures(t *testing.T) {
	crashed, want := crashedJournaled(t)
	afterwards(t, copied(t, crashed), want, "without a failure")
	eachFailure(t, 15, func(t *testing.T, f *failure) {
		dir := copied(t, crashed)
		f.arm(true)
		s, err := Open(dir, Options{})
		if err == nil {
			s.journal.ask() // it commits what was written again, and is renewed
			require.Eventually(t, func() bool { return s.journal.open.Load() || f.arm(true) }, time.Minute, time.Millisecond)
			f.arm(false)
			requireRoot(t, s, want, "%s %d", f.kind, f.n)
			_ = s.Close() // of a store whose index takes nothing any more
		} else {
			require.True(t, f.arm(false), "%v", err)
			requireEIO(t, err)
			require.NotContains(t, err.Error(), "\n")
		}
		afterwards(t, dir, want, "after %s %d", f.kind, f.n)
	})
}

// A failure while the journal is made, renewed, or written to: a flush that succeeds has happened.
func TestJournalFlushFailures(t *testing.T) {
	for what, withJournal := range map[string]bool{"a store that has a journal": true, "one that has none": false} {
		t.Run(what, func(t *testing.T) {
			base, want := crashedJournaled(t)
			if !withJournal {
				afterwards(t, base, want, "before")
				_, err := repairAndTell(base)
				require.NoError(t, err)
				require.NoError(t, os.Remove(filepath.Join(base, journalName)))
				_, err = repairAndTell(base)
				require.NoError(t, err)
			}
			eachFailure(t, 10, func(t *testing.T, f *failure) { flushWithFailure(t, f, copied(t, base), want) })
		})
	}
}

func flushWithFailure(t *testing.T, f *failure, dir string, want []byte) {
	t.Helper()
	var events eventLog
	s, err := Open(dir, Options{Event: events.add})
	require.NoError(t, err)
	file := fileNamed(t, vmNamed(t, s, "web"), "root")
	require.NoError(t, file.Commit(true))
	f.arm(true)
	s.journal.ask()
	require.Eventually(t, func() bool { return s.journal.open.Load() || f.arm(true) }, time.Minute, time.Millisecond)
	want = append([]byte(nil), want...)
	for i := range 3 {
		p := blocksOf(byte(100+i), 1)
		off := int64(30+i) * blockSize
		_, err := file.Write(p, off, true)
		if err == nil {
			err = file.Flush(true)
		}
		if err != nil {
			requireEIO(t, err)
			break
		}
		copy(want[off:], p)
	}
	f.arm(false)
	full := f.n%2 == 0 && (f.kind == "write" || f.kind == "create") // of that nobody is told
	require.Eventually(t, func() bool { return s.journal.open.Load() || full || events.count("journal-failed") > 0 }, time.Minute, time.Millisecond,
		"after %s %d it is open, or somebody is told", f.kind, f.n)
	again := kill(t, s, dir+"+")
	got := content(t, fileNamed(t, vmNamed(t, again, "web"), "root"))
	for i := range 3 { // one that was refused may be there
		if off := (30 + i) * blockSize; !strings.HasPrefix(string(want[off:]), string(blocksOf(byte(100+i), 1))) {
			copy(want[off:off+blockSize], got[off:])
		}
	}
	requireSame(t, want, got, "after %s %d", f.kind, f.n)
	require.NoError(t, again.Close())
	requireSound(t, again.dir)
}

// What the journal has is written back to a disk that others have filled: either there is room for it, or the mount is
// refused for that, and once there is room nothing is missing.
func TestJournalReplayOnAFullDisk(t *testing.T) {
	w := newJournaled(t, newDisk(t), "store")
	for i := range 30 {
		w.small(t, 110+i)
	}
	s := w.store
	require.Eventually(t, func() bool { return s.space.ballast.held.Load() == s.space.ballast.want }, time.Minute, time.Millisecond)
	s.closing.Do(func() {
		abandonWork(s)
		image := w.disk.cut(t)
		s.closed = s.release()
		w.disk.restart(t, image)
	})
	rival := newOthers(t, w.disk.mount)
	rival.eat(t)
	refused := 0
	for range 3 {
		s, err := Open(w.dir, Options{})
		if err == nil {
			requireRoot(t, s, w.want, "on a full disk")
			_ = s.Close()
			continue
		}
		require.Equal(t, syscall.ENOSPC, Errno(err), "%v", err)
		require.NotContains(t, err.Error(), "\n")
		t.Log(err)
		refused++
	}
	t.Logf("refused %d times", refused)
	rival.give(t, 400<<20)
	afterwards(t, w.dir, w.want, "once there is room")
}

// What can't be read for a record is not the journal's fault: the flush goes the long way, and the next one to the journal.
func TestJournalOutlivesAFailedRead(t *testing.T) {
	f := &failure{kind: "read", n: 1}
	f.install(t)
	dir, want := crashedJournaled(t)
	var events eventLog
	s := openStore(t, dir, Options{Event: events.add})
	openJournal(t, s)
	file := fileNamed(t, vmNamed(t, s, "web"), "root")
	require.NoError(t, file.Commit(true))
	before := s.journal.position()
	for i := range 2 {
		p := blocksOf(byte(100+i), 1)
		write(t, file, p, int64(30+i)*blockSize)
		copy(want[(30+i)*blockSize:], p)
		f.arm(true)
		flush(t, file)
		require.True(t, f.arm(false))
		require.EqualValues(t, before+uint64(i), s.journal.position(), "the first one failed")
		require.True(t, s.journal.open.Load())
	}
	require.Zero(t, events.count("journal-failed"))
	again := kill(t, s, dir+"+")
	requireRoot(t, again, want, "after a crash")
	require.NoError(t, again.Close())
}
