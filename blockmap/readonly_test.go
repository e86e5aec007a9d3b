package blockmap

// Opening for reading changes nothing, names what is no part of the index, and the sound beginning of a damaged log is what was
// committed up to there.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// stateOf is all that a directory has: names, kinds, times and content.
func stateOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	state := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		text := fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			text += fmt.Sprint(len(data)) + string(bytes.TrimRight(data, "\x00"))
		}
		state[path] = text
		return nil
	}))
	return state
}

func openToRead(dir string) (*Index, []Stray, error) {
	return OpenToRead(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName)})
}

func TestOpenToReadChangesNothing(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	dir, content := crashed(t)
	before := stateOf(t, dir)
	x, strays, err := openToRead(dir)
	require.NoError(t, err)
	require.Empty(t, strays)
	require.Equal(t, content, everything(t, x))
	require.ErrorIs(t, x.Update(func(*Tx) error { return nil }), ErrReadOnly)
	require.NoError(t, x.Close())
	require.Equal(t, before, stateOf(t, dir))

	x, err = openCounted(dir)
	require.NoError(t, err)
	require.Equal(t, content, everything(t, x))
	require.NoError(t, x.Close())
	before = stateOf(t, dir)
	x, _, err = openToRead(dir)
	require.NoError(t, err)
	require.Equal(t, content, everything(t, x))
	require.NoError(t, x.Close())
	require.Equal(t, before, stateOf(t, dir))
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	for _, entry := range left {
		require.NotContains(t, entry.Name(), "snapfs-index-", "what it took is given back")
	}
}

func TestOpenToReadOfANewIndex(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "index"), 0o700))
	x, _, err := openToRead(dir)
	require.NoError(t, err)
	require.Empty(t, everything(t, x))
	require.NoError(t, x.Close())
	entries, err := os.ReadDir(filepath.Join(dir, "index"))
	require.NoError(t, err)
	require.Empty(t, entries)
}

// strayFiles puts files into an index that are no part of it, and returns what is said of each.
func strayFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	other, _ := crashed(t)
	copyTo := func(from, name string) {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "index", name), data, 0o600))
	}
	first := func(dir, pattern string) string {
		names, err := filepath.Glob(filepath.Join(dir, "index", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, names)
		return names[0]
	}
	copyTo(first(dir, memPattern), "00077.mem")
	copyTo(first(other, memPattern), "00078.mem")
	copyTo(first(other, "*.sst"), "000077.sst")
	copyTo(first(dir, "*.sst"), "000078.sst") // what a crash may leave
	random := bytes.Repeat([]byte("disk"), 1250)
	for _, name := range []string{"000079.sst", "00079.mem", "notes.sst", "7.mem"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "index", name), random, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index", "00099.mem"), nil, 0o600))
	return map[string]string{
		"00077.mem": "in the logs before it", "00078.mem": "another index", "00079.mem": "no commit", "7.mem": "nothing of",
		"000077.sst": "another index", "000079.sst": "not whole", "notes.sst": "nothing of", "00099.mem": "empty",
	}
}

func TestStrays(t *testing.T) {
	dir, content := crashed(t)
	said := strayFiles(t, dir)
	before := stateOf(t, dir)
	x, strays, err := openToRead(dir)
	require.NoError(t, err)
	require.Equal(t, content, everything(t, x))
	require.NoError(t, x.Close())
	require.Equal(t, before, stateOf(t, dir))
	requireStrays(t, said, strays)

	_, err = openCounted(dir)
	require.ErrorIs(t, err, ErrDamaged, "nobody said where to put them")
	require.Equal(t, before, stateOf(t, dir))

	var aside []Stray
	x, err = Open(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName), Aside: func(s Stray) error {
		aside = append(aside, s)
		return os.Rename(filepath.Join(dir, "index", s.Name), filepath.Join(dir, s.Name))
	}})
	require.NoError(t, err)
	requireStrays(t, said, aside)
	require.Equal(t, content, everything(t, x))
	require.NoError(t, x.Close())
}

// Where there is no room to look at an unlisted table, it is kept.
func TestStraysThatCantBeLookedAt(t *testing.T) {
	dir, content := crashed(t)
	names, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	require.NoError(t, err)
	data, err := os.ReadFile(names[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index", "000078.sst"), data, 0o600))
	t.Setenv("TMPDIR", filepath.Join(dir, "nothing"))
	var aside []Stray
	x, err := Open(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName), Aside: func(s Stray) error {
		aside = append(aside, s)
		return os.Rename(filepath.Join(dir, "index", s.Name), filepath.Join(dir, s.Name))
	}})
	require.NoError(t, err)
	require.Len(t, aside, 1)
	require.Equal(t, "000078.sst", aside[0].Name)
	require.Equal(t, content, everything(t, x))
	require.NoError(t, x.Close())
}

func requireStrays(t *testing.T, said map[string]string, strays []Stray) {
	t.Helper()
	require.Len(t, strays, len(said))
	for _, s := range strays {
		require.Contains(t, s.Text, said[s.Name], s.Name)
	}
}

// Whatever byte of the logs is damaged, the beginning is what was committed up to a commit, and no commit before the damage is
// left out.
func TestBeginning(t *testing.T) {
	dir, _ := crashed(t)
	o := Options{Counter: filepath.Join(dir, counterName)}
	_, made, _, err := ReadCounter(o.Counter)
	require.NoError(t, err)
	b, err := OpenBeginning(filepath.Join(dir, "index"), o, false)
	require.NoError(t, err)
	require.Nil(t, b, "nothing is damaged")
	logs, err := filepath.Glob(filepath.Join(dir, "index", memPattern))
	require.NoError(t, err)
	logs = slices.DeleteFunc(logs, func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.Size() == 0 // the next one
	})
	require.Greater(t, len(logs), 1)
	for _, name := range logs {
		original, err := os.ReadFile(name)
		require.NoError(t, err)
		scan := scanLog(original)
		for _, at := range []int{0, logHeader + 3, 400, scan.end / 2, scan.end - 2} {
			data := bytes.Clone(original)
			data[at] ^= 4
			require.NoError(t, os.WriteFile(name, data, 0o600))
			_, err := openCounted(dir)
			require.ErrorIs(t, err, ErrDamaged, "%s at %d", name, at)
			require.ErrorContains(t, err, filepath.Base(name), "at %d", at)
			before := stateOf(t, dir)
			b, err := OpenBeginning(filepath.Join(dir, "index"), o, false)
			require.NoError(t, err)
			require.Equal(t, made, b.Made)
			if at == 0 {
				require.Equal(t, made, b.Commit, "a header is nothing that is needed")
			} else {
				require.Less(t, b.Commit, made)
				require.Equal(t, max(scan.first-1, scanLog(data).last), b.Commit)
			}
			requireStateAfter(t, b)
			require.NoError(t, b.Close())
			require.Equal(t, before, stateOf(t, dir))
		}
		require.NoError(t, os.WriteFile(name, original, 0o600))
	}
}

// requireStateAfter compares a beginning with what crashed wrote up to its commit.
func requireStateAfter(t *testing.T, b *Beginning) {
	t.Helper()
	want := make(map[string]string)
	for n := range int(b.Commit) {
		n++
		want[fmt.Sprintf("k%04d", n%500)] = fmt.Sprintf("%0100d", n)
		delete(want, fmt.Sprintf("k%04d", n*7%500))
	}
	require.Equal(t, want, everything(t, b.Index()))
	backup := filepath.Join(t.TempDir(), "backup")
	f, err := os.Create(backup)
	require.NoError(t, err)
	info, err := b.Backup(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, b.Commit, info.Commit)
	x, err := OpenBackup(filepath.Join(t.TempDir(), "index"), backup, b.Made, Options{})
	require.NoError(t, err)
	require.Equal(t, want, everything(t, x))
	require.NoError(t, x.Close())
}

// Without sound tables there is no beginning.
func TestBeginningOfDamagedTables(t *testing.T) {
	dir, _ := crashed(t)
	names, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	require.NoError(t, err)
	data, err := os.ReadFile(names[0])
	require.NoError(t, err)
	data[100] ^= 1
	require.NoError(t, os.WriteFile(names[0], data, 0o600))
	_, err = OpenBeginning(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName)}, false)
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, filepath.Base(names[0]))
}

// A log that is gone, empty, or no file any more is named, as far as there is a name.
func TestLostLogs(t *testing.T) {
	pristine, _ := crashed(t)
	logs, err := filepath.Glob(filepath.Join(pristine, "index", memPattern))
	require.NoError(t, err)
	for what, lose := range map[string]func(name string) error{
		"empty":     func(name string) error { return os.Truncate(name, 0) },
		"zeros":     func(name string) error { return errors.Join(os.Truncate(name, 0), os.Truncate(name, 1<<20)) },
		"directory": func(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o700)) },
		"gone":      os.Remove,
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			copyAll(t, pristine, dir)
			for _, name := range logs {
				require.NoError(t, lose(filepath.Join(dir, "index", filepath.Base(name))))
			}
			_, err := openCounted(dir)
			require.ErrorIs(t, err, ErrDamaged)
			if what == "gone" {
				require.ErrorContains(t, err, "*.mem")
			} else {
				require.ErrorContains(t, err, filepath.Base(logs[0]))
			}
		})
	}
}
