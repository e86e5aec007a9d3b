package blockmap

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// killDir, in the environment, makes the test binary a process that writes to the index there until it is killed.
const killDir = "SNAPFS_TEST_KILL_DIR"

const killWriters = 4

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeUntilKilled has several writers count, each in two keys at once, and prints every number once its Update returned.
func writeUntilKilled(dir string) error {
	x, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range killWriters {
		go func() {
			for {
				var n int
				err := x.Update(func(tx *Tx) (err error) {
					n, err = count(tx, w)
					return err
				})
				if err != nil {
					failed <- err
					return
				}
				os.Stdout.WriteString(fmt.Sprintf("%d %d\n", w, n))
			}
		}()
	}
	return <-failed
}

// counters reads both counters of a writer.
func counters(tx *Tx, w int) (n [2]int, err error) {
	for i := range n {
		value, err := tx.Get(fmt.Appendf(nil, "%d of %d", i, w))
		if err != nil {
			return n, err
		}
		if value != nil {
			if n[i], err = strconv.Atoi(string(value)); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// count moves both counters of a writer on.
func count(tx *Tx, w int) (int, error) {
	n, err := counters(tx, w)
	if err != nil {
		return 0, err
	}
	for i := range n {
		tx.Put(fmt.Appendf(nil, "%d of %d", i, w), fmt.Append(nil, n[i]+1))
	}
	return n[0] + 1, nil
}

// Killed at any time, the index has all whose Update returned, and of what was under way all or nothing.
func TestIndexKilled(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		acked := killAfter(t, dir, 1+40*round)
		x, err := Open(dir, Options{})
		require.NoError(t, err)
		require.NoError(t, x.View(func(tx *Tx) error {
			for w, last := range acked {
				n, err := counters(tx, w)
				require.NoError(t, err)
				require.Equal(t, n[0], n[1], "half of a transaction")
				require.GreaterOrEqual(t, n[0], last, "what was acknowledged is lost")
			}
			return nil
		}))
		require.NoError(t, x.Close())
	}
}

// killAfter runs writeUntilKilled until it has acknowledged so many updates and returns the last one of each writer.
func killAfter(t *testing.T, dir string, updates int) (acked [killWriters]int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill() // if something fails below
	lines := bufio.NewScanner(out)
	for seen := 0; lines.Scan(); seen++ {
		var w, n int
		_, err := fmt.Sscan(lines.Text(), &w, &n)
		require.NoError(t, err)
		acked[w] = n
		if seen == updates {
			require.NoError(t, cmd.Process.Kill())
		}
	}
	require.ErrorContains(t, cmd.Wait(), "killed")
	return acked
}
