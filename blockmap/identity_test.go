package blockmap

// An index is told by its own marks: the counter of another one is named, and nothing is touched.

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// foreignCounter puts the counter of another index, with some number, in the place of an index's own.
func foreignCounter(t *testing.T, dir string, number uint64) {
	t.Helper()
	path := filepath.Join(dir, counterName)
	require.NoError(t, os.RemoveAll(path))
	c := &counter{}
	require.NoError(t, c.create(path, number))
	require.NoError(t, c.close())
}

func TestForeignCounter(t *testing.T) {
	old, oldContent := crashed(t)
	young, youngContent := youngIndex(t)
	for what, number := range map[string]func(made uint64) uint64{
		"none":   func(uint64) uint64 { return 0 },
		"lower":  func(made uint64) uint64 { return made - 3 },
		"equal":  func(made uint64) uint64 { return made },
		"higher": func(made uint64) uint64 { return made + 300 },
	} {
		for _, tables := range []bool{true, false} {
			t.Run(what, func(t *testing.T) {
				store, content := old, oldContent
				if !tables {
					store, content = young, youngContent
				}
				dir := filepath.Join(t.TempDir(), "copy")
				copyAll(t, store, dir)
				mine, made, _, err := ReadCounter(filepath.Join(dir, counterName))
				require.NoError(t, err)
				foreignCounter(t, dir, number(made))
				before := stateOf(t, dir)
				_, err = Open(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName), Aside: func(s Stray) error {
					t.Errorf("%s is set aside", s.Name)
					return nil
				}})
				var foreign *ForeignError
				require.ErrorAs(t, err, &foreign)
				require.ErrorIs(t, err, ErrDamaged)
				require.Equal(t, mine, foreign.Index)
				_, _, err = openToRead(dir)
				require.ErrorAs(t, err, &foreign)
				identity, found := Identity(filepath.Join(dir, "index"), &foreign.Other)
				require.True(t, found)
				require.Equal(t, mine, identity)
				require.Equal(t, before, stateOf(t, dir))

				path := filepath.Join(dir, counterName)
				require.NoError(t, os.Remove(path))
				require.NoError(t, MakeCounter(path, filepath.Join(dir, "index"), Options{}))
				identity, again, _, err := ReadCounter(path)
				require.NoError(t, err)
				require.Equal(t, mine, identity)
				require.Equal(t, made, again)
				x, err := openCounted(dir)
				require.NoError(t, err)
				require.Equal(t, content, everything(t, x))
				require.NoError(t, x.Close())
			})
		}
	}
}

// youngIndex is one, killed, that has no tables yet.
func youngIndex(t *testing.T) (dir string, content map[string]string) {
	t.Helper()
	live, dir := t.TempDir(), filepath.Join(t.TempDir(), "young")
	x, err := openCounted(live)
	require.NoError(t, err)
	for _, value := range []string{"1", "2", "3", "4"} {
		put(t, x, "k"+value, value)
	}
	content = everything(t, x)
	require.Eventually(t, x.Settled, waitFor, tick)
	copyAll(t, live, dir)
	require.NoError(t, x.Close())
	names, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	require.NoError(t, err)
	require.Empty(t, names)
	return dir, content
}

// Without a counter, which is an error, nothing is moved either.
func TestNoCounterMovesNothing(t *testing.T) {
	dir, _ := crashed(t)
	strayFiles(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, counterName)))
	before := stateOf(t, filepath.Join(dir, "index"))
	_, err := Open(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName), Aside: func(s Stray) error {
		t.Errorf("%s is set aside", s.Name)
		return nil
	}})
	require.ErrorIs(t, err, ErrNoCounter)
	require.Equal(t, before, stateOf(t, filepath.Join(dir, "index")))
}

// A table of another index on the list of tables is named.
func TestForeignTable(t *testing.T) {
	dir, _ := crashed(t)
	other, _ := crashed(t)
	names, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	require.NoError(t, err)
	foreign, err := filepath.Glob(filepath.Join(other, "index", "*.sst"))
	require.NoError(t, err)
	data, err := os.ReadFile(foreign[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(names[0], data, 0o600))
	before := stateOf(t, dir)
	_, err = openCounted(dir)
	require.ErrorIs(t, err, ErrDamaged)
	require.Equal(t, before, stateOf(t, dir))
}
