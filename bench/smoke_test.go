package main

// The whole of it in small: it has to measure something, of everybody.

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/integration/daemon"
)

// TestMain runs everything in a mount namespace of its own.
func TestMain(m *testing.M) { daemon.Main(m, raiseFileLimit) }

func TestMeasures(t *testing.T) {
	t.Chdir("..")
	f := tiny
	f.size, f.each, f.depths, f.queues, f.resolveTime = mib, 30*time.Millisecond, []int{0, 2}, []int{16}, time.Microsecond
	picked, err := pick([]string{"reads", "deletes"})
	require.NoError(t, err)
	o := options{form: f, groups: picked, snapfs: daemon.Binary, other: daemon.Binary, out: t.TempDir()}
	r, err := o.measure(t.TempDir())
	require.NoError(t, err)

	for _, who := range []peer{snapfs, before, qsdQcow2, qcow2, qcow2Cache} {
		require.Len(t, r.of(row{"reads", small("randread", 16).String(), 2, iops}, who), 1, "%s", who)
	}
	for _, who := range []peer{qsdRaw, loopback, raw} {
		require.Len(t, r.of(row{"reads", small("randread", 16).String(), 0, iops}, who), 1, "%s", who)
	}
	for _, at := range r.rows {
		for who, s := range r.values[at] {
			require.GreaterOrEqual(t, s.median(), 0.0, "%v of %s", at, who)
		}
	}
	deleted := row{"deletes", "4 MiB of its own", 2, bytesWrote}
	require.Less(t, r.of(deleted, snapfs).median(), 0.5, "nothing is copied")
	require.Greater(t, r.of(deleted, qsdQcow2).median(), 0.5, "everything is copied")

	for _, pattern := range []string{"*.md", "*-read-iops.svg", "*-read-iops.png", "*-read-latency.svg"} {
		files, err := filepath.Glob(filepath.Join(o.out, pattern))
		require.NoError(t, err)
		require.Len(t, files, 1, pattern)
		info, err := os.Stat(files[0])
		require.NoError(t, err)
		require.Positive(t, info.Size())
	}
}
