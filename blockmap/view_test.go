package blockmap

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"
)

// A View neither waits for a commit under way nor shows any of it.
func TestViewBesideCommit(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	put(t, x, "a", "old")
	committing, leave := make(chan struct{}), make(chan struct{})
	commit := x.commit
	x.commit = func(txn *badger.Txn, version uint64) error {
		err := commit(txn, version)
		close(committing)
		<-leave
		return err
	}
	done := enqueueFirst(x, func(tx *Tx) error {
		tx.Put([]byte("a"), []byte("new"))
		return nil
	})
	<-committing
	require.Equal(t, "old", string(get(t, x, "a")))
	require.NoError(t, x.View(func(tx *Tx) error {
		close(leave)
		require.NoError(t, <-done)
		require.Equal(t, "new", string(get(t, x, "a")), "one that begins after the Update returned")
		value, err := tx.Get([]byte("a"))
		require.Equal(t, "old", string(value), "one view from beginning to end")
		return err
	}))
}

// enqueueFirst starts an Update; its error comes through the channel.
func enqueueFirst(x *Index, fn func(*Tx) error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- x.Update(fn) }()
	return done
}

// What a View reads is kept through any number of later versions, memtables and compactions; what nobody reads is not.
func TestViewSurvivesCompaction(t *testing.T) {
	const valueSize, rounds = 10_000, 600
	small := badgerOptions(t.TempDir()).WithMemTableSize(1 << 20).WithValueThreshold(100_000)
	x, err := open(small, Options{}, newRoom(small.Dir, Options{}))
	require.NoError(t, err)
	go x.writer()
	defer x.Close()
	overwrite := func() {
		for round := range rounds {
			put(t, x, "a", fmt.Sprint(round))
			put(t, x, "b", strings.Repeat("b", valueSize))
		}
		require.Eventually(t, func() bool { return x.db.Levels()[0].NumTables < small.NumLevelZeroTables }, waitFor, tick)
	}
	put(t, x, "a", "old")
	require.NoError(t, x.View(func(tx *Tx) error {
		overwrite()
		require.Positive(t, x.db.Levels()[small.MaxLevels-1].NumTables, "compactions have run")
		value, err := tx.Get([]byte("a"))
		require.Equal(t, "old", string(value))
		return err
	}))
	require.Equal(t, fmt.Sprint(rounds-1), string(get(t, x, "a")))
	require.Empty(t, x.reading)

	overwrite()
	require.NoError(t, x.db.Flatten(1))
	require.Less(t, x.db.Levels()[small.MaxLevels-1].Size, int64(rounds*valueSize/2), "old versions are gone")
}
