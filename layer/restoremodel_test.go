package layer

// Restoring the index after random operations: what a snapshot of the backup shows is right, or EIO, whatever was done since.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/blockmap"
)

func TestRestoreModel(t *testing.T) {
	base := t.TempDir()
	runs, compared, lost := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "run")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		snapshots, blocks := runRestored(t, dir)
		runs, compared, lost = runs+1, compared+snapshots, lost+blocks
	})
	t.Logf("%d indexes restored; %d snapshots compared, which have lost %d blocks", runs, compared, lost)
}

// backedUpSnapshot is a snapshot that a backup has.
type backedUpSnapshot struct {
	vm, name string
	model    *modelSnapshot
	files    map[string]modelState
}

// runRestored says how many snapshots it compared, and how many blocks they have lost.
func runRestored(t *rapid.T, dir string) (compared, lost int) {
	stores := 0
	m := &machine{limit: 40 * blockSize, longest: 10 * blockSize}
	if rapid.Bool().Draw(t, "large") {
		m.limit, m.longest = 3*blockmap.RegionSize, 3<<20
	}
	m.crashStore = func(t tester, s *Store) *Store {
		stores++
		return kill(t, s, filepath.Join(dir, fmt.Sprint(stores)))
	}
	var err error
	m.store, err = Open(filepath.Join(dir, "0"), Options{})
	require.NoError(t, err)
	defer func() { _ = m.store.Close() }()
	for _, name := range []string{"db", "web"} {
		makeVM(t, m.store, name)
		m.vms = append(m.vms, newModelVM(name))
	}
	t.Repeat(m.actions())

	require.NoError(t, m.store.backUp(time.Now()))
	backups, err := listBackups(m.store.dir)
	require.NoError(t, err)
	kept := filepath.Join(dir, "kept")
	require.NoError(t, os.Rename(backups[0].path, kept))
	var known []backedUpSnapshot
	for _, v := range m.vms {
		for _, n := range v.snapshots {
			b := backedUpSnapshot{v.name, n.name, n, map[string]modelState{}}
			for name, e := range n.files {
				b.files[name] = e.state
			}
			known = append(known, b)
		}
	}
	t.Repeat(m.actions())
	if rapid.Bool().Draw(t, "settle") {
		m.settle(t)
	}
	next := m.store.next.Load()
	if rapid.Bool().Draw(t, "killed") {
		m.store = m.crashStore(t, m.store)
	}
	require.NoError(t, m.store.Close())

	at := m.store.dir
	destroyIndex(t, at)
	require.NoError(t, os.MkdirAll(filepath.Join(at, backupName), 0o700))
	require.NoError(t, os.Rename(kept, filepath.Join(at, backupName, filepath.Base(backups[0].path))))
	before := filesIn(t, filepath.Join(at, layersName))
	report, err := restoreAndTell(at, false)
	require.NoError(t, err)
	after := filesIn(t, filepath.Join(at, layersName))
	for name := range filesIn(t, filepath.Join(at, report.Aside, layersName)) {
		after[name] = true
	}
	for name := range before {
		require.Contains(t, after, name, "a data file is gone")
	}
	requireOnlyLosses(t, at)
	repaired, err := repairAndTell(at)
	require.NoError(t, err)
	require.Empty(t, repaired.Repaired, "the restore left nothing to repair")

	s, err := Open(at, Options{})
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	require.Greater(t, s.next.Load(), next, "ids that were given out")
	compared, lost = len(known), compareRestored(t, s, m, known)
	require.Equal(t, lost > 0, hasSnapshotLoss(report.Lost), "what is told is what is lost: %v", report.Lost)

	// The store goes on, and gives back what nobody needs, while what the snapshots show stays.
	for _, v := range s.VMs() {
		for _, e := range v.Files() {
			e.File.awaitVoid()
			size := (e.File.Attr().Size + blockSize - 1) &^ (blockSize - 1)
			p := pattern(uint64(size), int(size))
			if size > 0 {
				write(t, e.File, p, 0)
				flush(t, e.File)
				requireSame(t, p, content(t, e.File), "what is written anew")
			}
		}
		if len(v.Snapshots()) > 1 {
			gone := rapid.SampledFrom(v.Snapshots()).Draw(t, "deleted")
			if _, err := v.DeleteSnapshots([]string{gone.Name()}); err == nil {
				for i, b := range known {
					if b.vm == v.Name() && b.name == gone.Name() {
						known = append(known[:i:i], known[i+1:]...)
						break
					}
				}
			}
		}
	}
	settle(t, s)
	compareRestored(t, s, m, known)
	require.NoError(t, s.Close())
	requireOnlyLosses(t, at)
	return compared, lost
}

// compareRestored reads all snapshots of the backup, block by block, and says how many blocks are lost. Those that were
// there to the end have lost none.
func compareRestored(t tester, s *Store, m *machine, known []backedUpSnapshot) (lost int) {
	t.Helper()
	for _, b := range known {
		stayed := false
		for _, v := range m.vms {
			for _, n := range v.snapshots {
				stayed = stayed || n == b.model
			}
		}
		n, err := vmNamed(t, s, b.vm).Snapshot(b.name)
		require.NoError(t, err)
		mine := 0
		require.Len(t, n.Views(), len(b.files))
		for name, state := range b.files {
			w, err := n.View(name)
			require.NoError(t, err)
			require.Equal(t, state.size(), w.Attr().Size)
			require.NoError(t, w.Open(viewHandle))
			for i := range int64(len(state.held)) {
				p := make([]byte, blockSize)
				got, err := w.Read(p, i*blockSize)
				if err != nil {
					require.Equal(t, syscall.EIO, Errno(err))
					mine++
					continue
				}
				want := state.block(i)[:min(blockSize, state.size()-i*blockSize)]
				require.True(t, bytes.Equal(want, p[:got]), "block %d of %s@%s/%s is neither what it was nor EIO", i, b.vm, b.name, name)
			}
			w.Close(viewHandle)
		}
		if stayed {
			require.Zero(t, mine, "%s@%s was there all the time, and has lost blocks", b.vm, b.name)
		}
		if mine > 0 {
			require.NotNil(t, n.Info().Warning)
			require.Contains(t, *n.Info().Warning, lostWarning)
		}
		lost += mine
	}
	return lost
}

func hasSnapshotLoss(findings []Finding) bool {
	for _, f := range findings {
		if strings.Contains(f.Object, "@") {
			return true
		}
	}
	return false
}

// requireOnlyLosses checks a closed store of which blocks are lost.
func requireOnlyLosses(t tester, dir string) {
	t.Helper()
	report, err := Check(dir)
	require.NoError(t, err)
	for _, f := range report.Findings {
		if strings.HasPrefix(f.Object, backupName) {
			continue // one that is damaged
		}
		require.Contains(t, f.Text, "has lost", "%s", f.Object)
		require.NotContains(t, f.Object, "layer")
	}
}
