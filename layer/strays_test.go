package layer

// Files beside the data and the index: foreign ones, and damaged ones that the store can do without.

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// findingOf is the only finding of a check, of what it is about.
func findingOf(t *testing.T, dir, object string) string {
	t.Helper()
	report, err := Check(dir)
	require.NoError(t, err)
	require.Len(t, report.Findings, 1)
	require.Equal(t, object, report.Findings[0].Object)
	return report.Findings[0].Text
}

func TestForeignFiles(t *testing.T) {
	s, _, _ := backedUpStore(t)
	require.NoError(t, s.Close())
	for _, name := range []string{"log", "log.1", "events", "events.new", "schedule.new", "FORMAT.tmp", "journal.tmp", "frozen/2.new", "index/000077.sst", "backup/index.tmp", "sums/00000000000000ff"} {
		path := filepath.Join(s.dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	for _, name := range []string{"journal.kept", "index/000099.vlog", "sums/0000000000000002"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), nil, 0o600))
	}
	require.NoError(t, os.Chmod(s.dir, 0o755))
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings, "all of these may be there")
	var noted []string
	for _, f := range report.Notes {
		noted = append(noted, f.Object)
	}
	for _, name := range []string{".", "events.new", "schedule.new", "FORMAT.tmp", "journal.tmp", "frozen/2.new", "index/000077.sst", "index/000099.vlog", "backup/index.tmp", "sums/00000000000000ff", "sums/0000000000000002", "journal.kept"} {
		require.Contains(t, noted, name)
	}
	require.NoError(t, os.Chmod(s.dir, 0o700))
	for _, name := range []string{"notes.txt", "index/notes.txt", "index/notes.sst", "sums/notes.txt", "backup/20060102-1", "frozen/guest", "index.tmp", "frozen/guest.new"} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(name), 0o600))
			require.NotEmpty(t, findingOf(t, s.dir, name))
			report, err := Check(s.dir)
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprint(report.Notes), "{"+name+" ", "it is told once")
			report = repaired(t, s.dir)
			require.Empty(t, report.Findings)
			kept, err := filepath.Glob(filepath.Join(s.dir, quarantineName, "*", name))
			require.NoError(t, err)
			require.Len(t, kept, 1)
			requireSound(t, s.dir)
		})
	}
}

// What somebody put there is not removed without a word.
func TestForeignFilesAreNotJustRemoved(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{})
	require.NoError(t, s.Close())
	for _, name := range []string{"index/000099.vlog", "sums/00000000000000ff", "sums/0000000000000000"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte("kept"), 0o600))
	}
	var events sync.Map
	s = openStore(t, s.dir, Options{Event: func(_, event string, attrs ...any) { events.Store(event, attrs) }})
	stray, told := events.Load("index-stray")
	require.True(t, told)
	require.Contains(t, stray, "index/000099.vlog")
	eventually(t, func() bool { _, told := events.Load("sums-removed"); return told })
	require.NoFileExists(t, filepath.Join(s.dir, "sums/0000000000000000"), "of an id that was given out")
	require.FileExists(t, filepath.Join(s.dir, "sums/00000000000000ff"), "of another store's")
}

// A store in a directory that was there, and that others could look into.
func TestStoreInADirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	openStore(t, dir, Options{})
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestDamagedBackups(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"flipped": func(t *testing.T, path string) { flip(t, path, 50) },
		"cut off": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 60)) },
		"empty":   func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := backedUpStore(t)
			require.NoError(t, s.Close())
			backup := nameOfBackup(t, s.dir)
			spoil(t, filepath.Join(s.dir, backup))
			require.Contains(t, findingOf(t, s.dir, backup), "damaged backup")
			require.NotContains(t, remedy(s.dir, nil), "goes back", "to what?")
			require.Empty(t, repaired(t, s.dir).Findings)
			requireSound(t, s.dir)
		})
	}
}

func TestDamagedFilesOfTheDaemon(t *testing.T) {
	s, v, _ := backedUpStore(t)
	require.NoError(t, s.Close())
	frozen := filepath.Join(frozenName, strconv.FormatUint(uint64(v.ID()), 10))
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, frozenName), 0o700))
	path := filepath.Join(s.dir, frozen)
	require.NoError(t, os.WriteFile(path, []byte(`{"agent":"/run/agent.sock"}`), 0o600))
	requireSound(t, s.dir)
	require.NoError(t, os.Truncate(path, 9))
	require.Contains(t, findingOf(t, s.dir, frozen), `VM "web"`)
	require.Empty(t, repaired(t, s.dir).Findings)
	requireSound(t, s.dir)
}

func TestDamagedCounter(t *testing.T) {
	pristine := sample(t)
	for name, spoil := range map[string]func(t *testing.T, path string){
		"first slot":  func(t *testing.T, path string) { flip(t, path, 0) },
		"second slot": func(t *testing.T, path string) { flip(t, path, 4123) },
		"cut off":     func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 2062)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			copyTree(t, pristine, dir)
			spoil(t, filepath.Join(dir, commitsName))
			require.Contains(t, findingOf(t, dir, commitsName), "is damaged at byte")
			report := repaired(t, dir)
			require.Empty(t, report.Findings)
			require.Len(t, report.Repaired, 1)
			requireSound(t, dir)
			s := openStore(t, dir, Options{})
			makeVM(t, s, "more")
		})
	}
}

// sumsCut makes a store whose one summed layer has its checksums cut short, not open.
func sumsCut(t *testing.T) (dir string, cut LayerID) {
	t.Helper()
	sumSoon(t)
	s := newStore(t, Options{})
	_, _, lower := sealed(t, s)
	summed(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, os.Truncate(filepath.Join(s.dir, sumsName, fileName(lower.id)), 1100*sumSize))
	return s.dir, lower.id
}

func TestSumsCutShort(t *testing.T) {
	dir, cut := sumsCut(t)
	require.Contains(t, findingOf(t, dir, layerName(cut)), "cut short: 4400 bytes of 6400")
	require.Empty(t, repaired(t, dir).Findings)
	requireSound(t, dir)
	s := openStore(t, dir, Options{})
	summed(t, s)
	report, err := s.Scrub()
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.EqualValues(t, 600*blockSize, report.Bytes)
}

// Who looks for checksums that are not there has them made anew, and is not refused data that is right.
func TestLostSumsAreMadeAnew(t *testing.T) {
	for _, by := range []string{"read", "scrub"} {
		t.Run(by, func(t *testing.T) {
			dir, cut := sumsCut(t)
			var events sync.Map
			s := openStore(t, dir, Options{Verify: true, Event: func(_, event string, attrs ...any) { events.Store(event, attrs) }})
			v := vmNamed(t, s, "web")
			if by == "read" {
				viewed(t, v, "s", "root")
			} else {
				report, err := s.Scrub()
				require.NoError(t, err)
				require.Len(t, report.Findings, 1)
				require.Equal(t, "web@s/root", report.Findings[0].Object)
				require.Contains(t, report.Findings[0].Text, "made anew")
			}
			_, told := events.Load("sums-lost")
			require.True(t, told)
			summed(t, s)
			flip(t, filepath.Join(layersDir(s), fileName(cut)), 1200*blockSize)
			report, err := s.Scrub()
			require.NoError(t, err)
			require.Len(t, report.Findings, 1)
			require.NoError(t, s.Close())
			requireSound(t, dir)
		})
	}
}

// A checksum that is there and does not match is EIO, whichever of the two is damaged.
func TestDamagedSums(t *testing.T) {
	sumSoon(t)
	s := newStore(t, Options{Verify: true})
	_, f, lower := sealed(t, s)
	summed(t, s)
	flip(t, s.data.sums.path(lower.id), 1200*sumSize+1)
	report, err := s.Scrub()
	require.NoError(t, err)
	require.Len(t, report.Findings, 1)
	require.Contains(t, report.Findings[0].Text, "block 1200 of data file")
	require.Contains(t, report.Findings[0].Text, "one of them is damaged")
	_, err = f.Read(make([]byte, 4), 1200*blockSize)
	require.ErrorIs(t, err, unix.EIO)
}
