package blockmap

// Everything that is asked of the host's file system fails once: whatever it was, nobody is told that a commit is on disk
// that is not, nothing follows a commit that failed, and the next Open finds all that was acknowledged.

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// failure makes the n-th thing of a kind fail.
type failure struct {
	kind string
	n    int

	mu   sync.Mutex
	left int
	path string // of what failed; empty: nothing yet
}

func (f *failure) ask(kind, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind != f.kind || f.left == 0 {
		return nil
	}
	if f.left--; f.left > 0 {
		return nil
	}
	f.path = path
	return unix.EIO
}

func (f *failure) hit() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.path
}

func openFaulty(dir string, f *failure) (*Index, error) {
	o := Options{Counter: filepath.Join(dir, counterName)}
	if f != nil {
		f.left = f.n
		o.Fault = f.ask
	}
	return Open(filepath.Join(dir, "index"), o)
}

// A round of commits is more than a memtable holds, so that the log changes within.
const (
	faultCommits = 9
	faultBytes   = 4 << 20
)

// countTo commits numbers, each with much beside it, until there are as many as asked for or one fails. It returns the last
// one that was acknowledged.
func countTo(x *Index, from, to int) (acked int, err error) {
	for n := from + 1; n <= to; n++ {
		err := x.Update(func(tx *Tx) error {
			tx.Put([]byte("n"), fmt.Append(nil, n))
			for i := range faultBytes >> 19 {
				tx.Put(fmt.Appendf(nil, "beside %d", i), make([]byte, 1<<19))
			}
			return nil
		})
		if err != nil {
			return n - 1, err
		}
	}
	return to, nil
}

// counted is the last number in the index.
func counted(x *Index) (n int, err error) {
	err = x.View(func(tx *Tx) error {
		value, err := tx.Get([]byte("n"))
		if err == nil && value != nil {
			_, err = fmt.Sscan(string(value), &n)
		}
		return err
	})
	return n, err
}

// faultRun opens an index, which is new or has been used, commits, reads and closes it, with one failure anywhere. It
// returns the path of what failed.
func faultRun(t *testing.T, f *failure, used bool) string {
	dir, from := t.TempDir(), 0
	if used {
		x, err := openFaulty(dir, nil)
		require.NoError(t, err)
		from, err = countTo(x, 0, 2)
		require.NoError(t, err)
		require.NoError(t, x.Close())
	}
	acked, tried := from, from+faultCommits
	x, err := openFaulty(dir, f)
	if err != nil {
		require.ErrorIs(t, err, unix.EIO)
		require.NotEmpty(t, f.hit())
		tried = from
	} else {
		acked, err = countTo(x, from, tried)
		if err != nil {
			require.ErrorIs(t, err, ErrFailed)
			require.ErrorIs(t, err, unix.EIO)
			tried = acked + 1
			require.ErrorIs(t, x.Update(func(*Tx) error { return nil }), ErrFailed, "nothing follows a commit that failed")
		}
		n, err := counted(x)
		if err != nil {
			require.ErrorIs(t, err, unix.EIO)
			n, err = counted(x)
		}
		require.NoError(t, err)
		require.Equal(t, acked, n, "what is seen is what was acknowledged")
		if err := x.Close(); err != nil {
			require.ErrorIs(t, err, unix.EIO)
		}
	}
	x, err = openFaulty(dir, nil)
	require.NoError(t, err, "after %s of %s failed", f.kind, f.hit())
	n, err := counted(x)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, acked, "what was acknowledged is lost")
	require.LessOrEqual(t, n, tried)
	_, err = countTo(x, n, n+1)
	require.NoError(t, err)
	require.NoError(t, x.Close())
	return f.hit()
}

var every = flag.Bool("every", false, "have the n-th thing of each kind fail for every n, not for some, others in each run")

func TestEveryFailure(t *testing.T) {
	for _, used := range []bool{false, true} {
		for _, kind := range []string{"read", "write", "sync", "allocate", "open", "create", "unlink", "mkdir", "stat", "view"} {
			if kind == "read" && !used || kind == "unlink" && !used {
				continue // a new index has nothing of the kind
			}
			t.Run(fmt.Sprintf("%s, used %v", kind, used), func(t *testing.T) {
				hit := make(map[string]int)
				fails := func(n int) bool {
					path := faultRun(t, &failure{kind: kind, n: n}, used)
					if path != "" {
						hit[filepath.Base(path)]++
					}
					return path != ""
				}
				if testing.Short() { // the race detector has seen all of it then
					_ = fails(1+rand.IntN(4)) || fails(1)
				} else {
					for n := 1; fails(n); n++ {
						if !*every {
							n += rand.IntN(5)
						}
					}
				}
				require.NotEmpty(t, hit, "nothing of the kind was ever asked for")
				t.Logf("failed: %v", hit)
			})
		}
	}
}
