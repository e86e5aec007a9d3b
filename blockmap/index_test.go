package blockmap

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// openIndex opens an index of its own for a test.
func openIndex(t *testing.T, dir string, o Options) *Index {
	x, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.Close()) })
	return x
}

// put and get are an Update and a View of one key.
func put(t *testing.T, x *Index, key, value string) {
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.Put([]byte(key), []byte(value))
		return nil
	}))
}

func get(t *testing.T, x *Index, key string) (value []byte) {
	require.NoError(t, x.View(func(tx *Tx) (err error) {
		value, err = tx.Get([]byte(key))
		return err
	}))
	return value
}

func TestIndexReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := openIndex(t, dir, Options{})
	put(t, x, "a", "1")
	require.NoError(t, x.Close())
	x = openIndex(t, dir, Options{})
	require.Equal(t, "1", string(get(t, x, "a")))
}

func TestIndexClosed(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.Close())
	require.NoError(t, x.Close(), "twice is fine")
	nothing := func(*Tx) error { panic("called on a closed index") }
	require.ErrorIs(t, x.View(nothing), ErrClosed)
	require.ErrorIs(t, x.Update(nothing), ErrClosed)
	require.ErrorIs(t, x.Resolve(&Chain{}, 0, nil, new(Owners)), ErrClosed)
}

// Close waits for a View under way, and what was queued before it is still committed.
func TestIndexCloseWaits(t *testing.T) {
	dir := t.TempDir()
	x := openIndex(t, dir, Options{})
	put(t, x, "a", "1")
	inView, leave := make(chan struct{}), make(chan struct{})
	viewed := make(chan error)
	go func() {
		viewed <- x.View(func(tx *Tx) error {
			close(inView)
			<-leave
			value, err := tx.Get([]byte("a"))
			if string(value) != "1" {
				return errors.New("lost while closing")
			}
			return err
		})
	}()
	<-inView
	release := block(t, x)
	updated := enqueue(t, x, 1, func(tx *Tx) error {
		tx.Put([]byte("b"), []byte("2"))
		return nil
	})
	closed := make(chan error)
	go func() { closed <- x.Close() }()
	require.Eventually(t, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.closed
	}, waitFor, tick)
	release()
	require.NoError(t, <-updated)
	select {
	case <-closed:
		t.Fatal("closed under a View")
	default:
	}
	close(leave)
	require.NoError(t, <-viewed)
	require.NoError(t, <-closed)
	x = openIndex(t, dir, Options{})
	require.Equal(t, "2", string(get(t, x, "b")))
}

// A crash between making a file and giving it its size leaves an empty one, and Badger alone would refuse to open.
// Where Badger can't write any more, it is not waited for, and what was committed is in its log.
func TestIndexCloseFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x, err := Open(dir, Options{})
	require.NoError(t, err)
	put(t, x, "a", "1")
	require.NoError(t, os.Rename(dir, dir+".away"))
	require.ErrorIs(t, x.Close(), ErrLeftOpen)
	require.ErrorContains(t, x.Close(), "no such file", "twice is fine, and it says why")
	killed := t.TempDir()
	copyDir(t, dir+".away", killed)
	require.Equal(t, "1", string(get(t, openIndex(t, killed, Options{}), "a")))

	require.NoError(t, os.Rename(dir+".away", dir))
	require.Eventually(t, func() bool { // Badger still tries, and has it locked meanwhile
		x, err = Open(dir, Options{})
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	require.Equal(t, "1", string(get(t, x, "a")))
	require.NoError(t, x.Close())
}

func TestIndexLeftovers(t *testing.T) {
	dir := t.TempDir()
	x := openIndex(t, dir, Options{})
	put(t, x, "a", "1")
	require.NoError(t, x.Close())
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	x = openIndex(t, dir, Options{})
	require.Equal(t, "1", string(get(t, x, "a")))
	put(t, x, "b", "2")
}

// Everything whose Update has returned is in the files: a copy of them, as a kill would leave them, has it.
func TestIndexCrashCopy(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	x := openIndex(t, dir, Options{})
	for _, key := range []string{"a", "b", "c"} {
		put(t, x, key, "of "+key)
	}
	copyDir(t, dir, copied)
	y := openIndex(t, copied, Options{})
	for _, key := range []string{"a", "b", "c"} {
		require.Equal(t, "of "+key, string(get(t, y, key)))
	}
}

func copyDir(t *testing.T, from, to string) {
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range entries {
		src, err := os.Open(filepath.Join(from, e.Name()))
		require.NoError(t, err)
		dst, err := os.Create(filepath.Join(to, e.Name()))
		require.NoError(t, err)
		_, err = io.Copy(dst, src)
		require.NoError(t, err)
		require.NoError(t, dst.Close())
		require.NoError(t, src.Close())
	}
}

func TestIndexOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(file, Options{})
	require.Error(t, err)

	dir := t.TempDir()
	openIndex(t, dir, Options{})
	_, err = Open(dir, Options{})
	require.Error(t, err, "one process, one Index")
}
