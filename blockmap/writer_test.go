package blockmap

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"
)

const (
	waitFor = time.Minute // an upper bound for what takes a moment
	tick    = time.Millisecond
)

// block keeps the writer busy until the returned function is called: what is queued meanwhile goes into one group.
func block(t *testing.T, x *Index) (release func()) {
	started, leave, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- x.Update(func(*Tx) error {
			close(started)
			<-leave
			return nil
		})
	}()
	<-started
	return func() {
		close(leave)
		require.NoError(t, <-done)
	}
}

// enqueue starts an Update and returns once it is the n-th in the queue; its error comes through the channel.
func enqueue(t *testing.T, x *Index, n int, fn func(*Tx) error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- x.Update(fn) }()
	require.Eventually(t, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.queue) == n
	}, waitFor, tick)
	return done
}

// countCommits counts how often the index commits from now on.
func countCommits(x *Index) *atomic.Int64 {
	n, commit := new(atomic.Int64), x.commit
	x.commit = func(txn *badger.Txn, version uint64) error {
		n.Add(1)
		return commit(txn, version)
	}
	return n
}

func TestUpdateGroups(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	commits := countCommits(x)
	release := block(t, x)
	var results []<-chan error
	for i := range 10 {
		results = append(results, enqueue(t, x, i+1, func(tx *Tx) error {
			seen, err := tx.Get([]byte("last"))
			if err != nil {
				return err
			}
			if i > 0 && string(seen) != fmt.Sprint(i-1) {
				return fmt.Errorf("%d saw %q", i, seen)
			}
			tx.Put([]byte("last"), []byte(fmt.Sprint(i)))
			tx.Put([]byte(fmt.Sprintf("key %d", i)), nil)
			return nil
		}))
	}
	release()
	for _, r := range results {
		require.NoError(t, <-r)
	}
	require.EqualValues(t, 1, commits.Load(), "what queued is committed together")
	require.Equal(t, "9", string(get(t, x, "last")))
	for i := range 10 {
		require.NotNil(t, get(t, x, fmt.Sprintf("key %d", i)))
	}
}

// One that fails writes nothing, also not what others of its group then see, and keeps nobody else from being written.
func TestUpdateErrorIsAlone(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	put(t, x, "a", "old")
	commits := countCommits(x)
	boom := errors.New("boom")
	release := block(t, x)
	first := enqueue(t, x, 1, func(tx *Tx) error {
		tx.Put([]byte("b"), []byte("1"))
		return nil
	})
	failing := enqueue(t, x, 2, func(tx *Tx) error {
		tx.Put([]byte("a"), []byte("never"))
		tx.Delete([]byte("b"))
		tx.PutRecord(1, 1, 1, &Record{Data: Bitmap{1}})
		return fmt.Errorf("wrapped: %w", boom)
	})
	third := enqueue(t, x, 3, func(tx *Tx) error {
		a, _ := tx.Get([]byte("a"))
		b, _ := tx.Get([]byte("b"))
		tx.Put([]byte("saw"), append(a, b...))
		return nil
	})
	release()
	require.NoError(t, <-first)
	require.ErrorIs(t, <-failing, boom)
	require.NoError(t, <-third)
	require.EqualValues(t, 1, commits.Load())
	require.Equal(t, "old1", string(get(t, x, "saw")))
	require.Equal(t, "old", string(get(t, x, "a")))
	require.NoError(t, x.View(func(tx *Tx) error {
		r, err := tx.Record(1, 1, 1)
		require.True(t, r.Empty())
		return err
	}))
}

func TestUpdateReadOnlyCommitsNothing(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	commits := countCommits(x)
	require.NoError(t, x.Update(func(tx *Tx) error {
		_, err := tx.Get([]byte("a"))
		return err
	}))
	require.Zero(t, commits.Load())
}

// fill writes until only what is left of MaxTx remains.
func fill(x *Index, tx *Tx, label string, left, valueSize int) {
	value := bytes.Repeat([]byte{7}, valueSize)
	for i := 0; x.MaxTx()-tx.Size() > left+valueSize+entryOverhead+20; i++ {
		tx.Put(fmt.Appendf(nil, "%s %08d", label, i), value)
	}
}

// MaxTx holds whether a transaction has few large entries or as many small ones as possible.
func TestUpdateMaxTx(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	for _, size := range []int{0, 1, 257, 100_000} {
		require.NoError(t, x.Update(func(tx *Tx) error {
			fill(x, tx, "k", 0, size)
			require.Greater(t, tx.Size(), x.MaxTx()-size-1000)
			return nil
		}), "values of %d bytes", size)
	}
}

func TestUpdateTooLarge(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	err := x.Update(func(tx *Tx) error {
		fill(x, tx, "k", 0, 1000)
		tx.Put([]byte("one more"), make([]byte, 2000))
		return nil
	})
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorIs(t, x.Update(func(tx *Tx) error {
		tx.Put([]byte("value"), make([]byte, maxValue))
		return nil
	}), ErrTooLarge)
	require.NoError(t, x.View(func(tx *Tx) error {
		return tx.Scan(nil, func(key, _ []byte) error { return fmt.Errorf("%q was written", key) })
	}))
	put(t, x, "value", "fits")
}

// A group that is too much for one transaction is committed in several, none of them torn.
func TestUpdateGroupSplits(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	commits := countCommits(x)
	release := block(t, x)
	var results []<-chan error
	for i := range 6 {
		results = append(results, enqueue(t, x, i+1, func(tx *Tx) error {
			if i > 0 {
				if before, _ := tx.Get([]byte(fmt.Sprintf("k%d 00000000", i-1))); before == nil {
					return errors.New("does not see the one before")
				}
			}
			fill(x, tx, fmt.Sprintf("k%d", i), x.MaxTx()*6/10, 1000)
			return nil
		}))
	}
	release()
	for _, r := range results {
		require.NoError(t, <-r)
	}
	require.EqualValues(t, 3, commits.Load(), "two of 40 % fit into one transaction")
	for i := range 6 {
		require.NotNil(t, get(t, x, fmt.Sprintf("k%d 00000000", i)))
	}
}

// After a failed commit the whole group hears of it, the owner of the index once, and nothing is written any more.
func TestUpdateFailedCommit(t *testing.T) {
	var failures []error
	dir := t.TempDir()
	x := openIndex(t, dir, Options{Failed: func(err error) { failures = append(failures, err) }})
	put(t, x, "a", "1")
	broken := errors.New("disk is broken")
	release := block(t, x)
	commit := x.commit
	x.commit = func(txn *badger.Txn, version uint64) error {
		require.NoError(t, commit(txn, version)) // as when only the sync failed
		return broken
	}
	write := func(tx *Tx) error {
		tx.Put([]byte("a"), []byte("2"))
		return nil
	}
	own := errors.New("own")
	first, second := enqueue(t, x, 1, write), enqueue(t, x, 2, write)
	third := enqueue(t, x, 3, func(*Tx) error { return own })
	release()
	for _, r := range []<-chan error{first, second} {
		err := <-r
		require.ErrorIs(t, err, ErrFailed)
		require.ErrorIs(t, err, broken)
	}
	require.ErrorIs(t, <-third, own)

	err := x.Update(func(*Tx) error { panic("called on a failed index") })
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, err, broken)
	require.Len(t, failures, 1)
	require.ErrorIs(t, failures[0], broken)
	require.Equal(t, "1", string(get(t, x, "a")), "Views go on and do not show what failed")
	require.NoError(t, x.Close())

	x = openIndex(t, dir, Options{})
	put(t, x, "a", "3")
}

// If the first part of a split group fails, the rest is not tried.
func TestUpdateFailedSplit(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	release := block(t, x)
	broken := errors.New("disk is broken")
	var commits atomic.Int64
	x.commit = func(*badger.Txn, uint64) error {
		commits.Add(1)
		return broken
	}
	big := func(tx *Tx) error {
		fill(x, tx, "k", x.MaxTx()*4/10, 1000)
		return nil
	}
	first, second := enqueue(t, x, 1, big), enqueue(t, x, 2, big)
	third := enqueue(t, x, 3, func(*Tx) error { panic("called on a failed index") })
	release()
	for _, r := range []<-chan error{first, second, third} {
		require.ErrorIs(t, <-r, ErrFailed)
	}
	require.EqualValues(t, 1, commits.Load())
}
