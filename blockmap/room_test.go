package blockmap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newestLog is the memtables' log with the highest number.
func newestLog(t *testing.T, dir string) (name string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, memPattern))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	return slices.Max(names)
}

// commit writes n times 512 KiB.
func commit(t *testing.T, x *Index, n int) {
	t.Helper()
	value := make([]byte, 512<<10)
	for i := range n {
		require.NoError(t, x.Update(func(tx *Tx) error {
			tx.Put([]byte(fmt.Sprintf("m%d", i)), value)
			return nil
		}))
	}
}

// Every log of a memtable has its room before Badger writes to it, and Badger takes the one that was made ahead.
func TestLogsHaveRoom(t *testing.T) {
	dir := t.TempDir()
	x, err := Open(dir, Options{})
	require.NoError(t, err)
	for range 3 {
		ahead := newestLog(t, dir)
		var made, taken unix.Stat_t
		require.NoError(t, unix.Stat(ahead, &made))
		require.Zero(t, made.Size, "the next one is made ahead")
		require.GreaterOrEqual(t, made.Blocks*512, int64(memTableSize), "with its room")
		commit(t, x, 70) // 35 MiB
		require.NoError(t, unix.Stat(ahead, &taken))
		require.NotZero(t, taken.Size, "Badger took it")
		require.Equal(t, made.Ino, taken.Ino)
		require.GreaterOrEqual(t, taken.Blocks*512, int64(memTableSize), "with its room")
	}
	require.NoError(t, x.Close())
	names, err := filepath.Glob(filepath.Join(dir, memPattern))
	require.NoError(t, err)
	require.Empty(t, names, "nothing is left behind")
}

// Where there is no room, Updates are refused before the memtable has to be replaced: those that give room back later than
// the others. Nothing is broken by that, and it ends when there is room.
func TestUpdateWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	room, told := true, false
	x, err := Open(dir, Options{Room: func(bytes int64, now bool) bool {
		require.Positive(t, bytes)
		told = told || !room && now
		return room
	}})
	require.NoError(t, err)
	value := make([]byte, 100<<10)
	fill := func(update func(func(*Tx) error) error) (n int, err error) {
		for ; err == nil && n < 1000; n++ {
			err = update(func(tx *Tx) error {
				tx.Put([]byte(fmt.Sprintf("m%d", n)), value)
				return nil
			})
		}
		return n, err
	}
	room = false
	n, err := fill(x.Update)
	require.ErrorIs(t, err, ErrFull)
	require.Greater(t, n, 200, "there is room for most of a memtable")
	freed, err := fill(x.UpdateFreeing)
	require.ErrorIs(t, err, ErrFull)
	require.Greater(t, freed, 20)
	require.True(t, told, "in time")
	require.Less(t, (n+freed)*len(value), memTableSize)
	require.NoError(t, x.View(func(*Tx) error { return nil }))
	require.ErrorIs(t, x.Update(func(*Tx) error { panic("called without room") }), ErrFull)

	room = true
	commit(t, x, 80)
	room = false
	require.ErrorIs(t, x.Close(), ErrFull, "closing would write a table")
	require.NoError(t, x.db.Close())

	_, err = Open(dir, Options{Room: func(int64, bool) bool { return false }})
	require.ErrorIs(t, err, ErrFull)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.NotEmpty(t, entries)
	x = openIndex(t, dir, Options{})
	require.Len(t, get(t, x, "m79"), 512<<10)
}
