package layer

// An index whose log is damaged goes on from its sound beginning: what a snapshot of then shows is right, or EIO.

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/blockmap"
)

// killedAt ends a store as SIGKILL ends its process; what that leaves is in a directory.
func killedAt(t tester, s *Store, to string) {
	t.Helper()
	s.closing.Do(func() {
		abandonWork(s)
		copyStore(t, s.dir, to)
		if backups := filepath.Join(s.dir, backupName); exists(backups) {
			copyTree(t, backups, filepath.Join(to, backupName))
		}
		s.closed = s.release()
	})
}

// fullLogs are the logs of an index that have something, with how many bytes.
func fullLogs(t tester, dir string) map[string]int {
	t.Helper()
	used := make(map[string]int)
	names, err := filepath.Glob(filepath.Join(dir, indexName, "*.mem"))
	require.NoError(t, err)
	for _, name := range names {
		end := 0
		eachBlock(t, name, func(off int64, p []byte) { end = int(off) + len(bytes.TrimRight(p, "\x00")) })
		if end > 20 {
			used[name] = end
		}
	}
	return used
}

func flipAt(t tester, path string, at int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	p := make([]byte, 1)
	_, err = f.ReadAt(p, int64(at))
	require.NoError(t, err)
	p[0] ^= 1 << (at % 8)
	_, err = f.WriteAt(p, int64(at))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// moment is what there was when a commit was the last one.
type moment struct {
	commit uint64
	known  []backedUpSnapshot
}

func momentOf(m *machine) moment {
	at := moment{commit: m.store.index.Committed()}
	for _, v := range m.vms {
		for _, n := range v.snapshots {
			b := backedUpSnapshot{v.name, n.name, n, map[string]modelState{}}
			for name, e := range n.files {
				b.files[name] = e.state
			}
			at.known = append(at.known, b)
		}
	}
	return at
}

// knownAt are the snapshots that were there under one name from before a commit until after it.
func knownAt(moments []moment, commit uint64) (known []backedUpSnapshot) {
	i := slices.IndexFunc(moments, func(m moment) bool { return m.commit > commit })
	if i < 0 {
		i = len(moments)
	}
	if i == 0 {
		return nil
	}
	before, after := moments[i-1], moments[min(i, len(moments)-1)]
	for _, b := range before.known {
		if slices.ContainsFunc(after.known, func(c backedUpSnapshot) bool { return c.model == b.model && c.name == b.name }) {
			known = append(known, b)
		}
	}
	return known
}

func TestBeginningModel(t *testing.T) {
	base := t.TempDir()
	compared := 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "run")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		compared += runBeginning(t, dir)
	})
	t.Logf("%d snapshots compared after their index lost its newest commits", compared)
	require.True(t, compared > 0 || testing.Short())
}

func runBeginning(t *rapid.T, dir string) int {
	m := &machine{limit: 40 * blockSize, longest: 10 * blockSize}
	stores := 0
	m.crashStore = func(t tester, s *Store) *Store {
		stores++
		return kill(t, s, filepath.Join(dir, fmt.Sprint(stores)))
	}
	var err error
	m.store, err = Open(filepath.Join(dir, "0"), Options{})
	require.NoError(t, err)
	defer func() { _ = m.store.Close() }()
	makeVM(t, m.store, "db")
	m.vms = append(m.vms, newModelVM("db"))
	m.opened(t)
	var moments []moment
	actions := m.actions()
	for _, name := range []string{"reopen", "crash", "take over", "take over again", "destroy"} {
		delete(actions, name) // the log is to have something
	}
	compare := actions[""]
	actions[""] = func(t *rapid.T) {
		compare(t)
		moments = append(moments, momentOf(m))
	}
	m.create(t)
	m.write(t)
	m.snapshot(t)
	t.Repeat(actions)
	if rapid.Bool().Draw(t, "backed up") {
		require.NoError(t, m.store.backUp(time.Now()))
		t.Repeat(actions)
	}
	killed := filepath.Join(dir, "killed")
	killedAt(t, m.store, killed)
	compared := 0
	for i := range 4 {
		at := filepath.Join(dir, fmt.Sprint("damaged", i))
		copyTree(t, killed, at)
		compared += damageLog(t, m, moments, at, i == 0)
	}
	return compared
}

// damageLog damages a log of a store, at its end or anywhere, has that repaired, and says how many snapshots it compared then.
func damageLog(t *rapid.T, m *machine, moments []moment, dir string, atEnd bool) int {
	_, made, _, err := blockmap.ReadCounter(filepath.Join(dir, commitsName))
	require.NoError(t, err)
	logs := fullLogs(t, dir)
	require.NotEmpty(t, logs)
	log := rapid.SampledFrom(slices.Sorted(maps.Keys(logs))).Draw(t, "log")
	at := logs[log] - 3
	if !atEnd {
		at = rapid.IntRange(20, at).Draw(t, "byte")
	}
	flipAt(t, log, at)
	found, err := Check(dir)
	require.NoError(t, err)
	if !found.Unread {
		return 0 // what is damaged there is in a table already, or behind the last commit
	}
	b, err := openBeginning(dir)
	if err != nil || b == nil {
		return 0 // there is nothing
	}
	require.NoError(t, b.Close())
	if !b.best {
		return 0 // a backup is newer
	}
	upTo := fmt.Sprintf("up to commit %d of %d", b.Commit, made)
	require.Contains(t, found.Findings[0].Text, upTo)
	report, err := repairAndTell(dir)
	require.NoError(t, err)
	require.False(t, report.Unread)
	require.Contains(t, report.Repaired[0].Text, upTo)
	requireOnlyLosses(t, dir)
	again, err := repairAndTell(dir)
	require.NoError(t, err)
	require.Empty(t, again.Repaired, "the first one left nothing to do")

	s, err := Open(dir, Options{})
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	require.Greater(t, s.next.Load(), m.store.next.Load(), "ids that were given out")
	known := knownAt(moments, b.Commit)
	compareRestored(t, s, m, known)
	require.NoError(t, s.Close())
	return len(known)
}

// A store that has no backup yet goes on from its beginning, and says what it is made of.
func TestBeginningWithoutABackup(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	snapshot(t, v, "s")
	before := s.index.Committed()
	write(t, f, blocksOf(2, 4), 0)
	snapshot(t, v, "lost")
	dir := filepath.Join(t.TempDir(), "store")
	killedAt(t, s, dir)
	logs := fullLogs(t, dir)
	require.Len(t, logs, 1)
	for name, used := range logs {
		flipAt(t, name, used-3)
		require.Contains(t, findingOf(t, dir, indexName), name)
	}
	_, err := Open(dir, Options{})
	require.ErrorContains(t, err, "check "+dir+" --repair` goes back to before that")
	report, err := restoreAndTell(dir, false)
	require.NoError(t, err)
	require.Contains(t, report.From, "the sound beginning of the index's log")
	require.WithinDuration(t, time.Now(), report.Taken, time.Hour)
	require.Len(t, report.States, 1)

	s = openStore(t, dir, Options{})
	v = vmNamed(t, s, "web")
	requireSame(t, blocksOf(1, 8), viewed(t, v, "s", "root"), "the snapshot")
	require.Greater(t, s.index.Committed(), before)
}

// Where a table is damaged there is no beginning: the newest backup counts, and the report says why.
func TestNoBeginningOfDamagedTables(t *testing.T) {
	s, _, _ := backedUpStore(t)
	require.NoError(t, s.Close())
	names, err := filepath.Glob(filepath.Join(s.dir, indexName, "*.sst"))
	require.NoError(t, err)
	flipAt(t, names[0], 100)
	require.Contains(t, findingOf(t, s.dir, indexName), "restore-index")
	require.Len(t, repaired(t, s.dir).Findings, 1, "that is for who operates it to decide")
	report, err := restoreAndTell(s.dir, false)
	require.NoError(t, err)
	require.Contains(t, report.From, "backup/")
	require.Contains(t, report.Damage, filepath.Base(names[0]))
	requireOnlyLosses(t, s.dir)
}
