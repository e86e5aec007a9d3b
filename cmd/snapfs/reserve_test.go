package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReserveIsRaised(t *testing.T) {
	dir := t.TempDir()
	store, point := filepath.Join(dir, "new", "store"), filepath.Join(dir, "mnt")
	require.NoError(t, os.Mkdir(filepath.Dir(store), 0o755))
	require.NoError(t, os.Mkdir(point, 0o755))
	for reserve, was := range map[string]string{"16MiB": "16MiB", "0.000001%": ""} {
		unmountAtEnd(t, point)
		code, _, stderr := snapfs("mount", store, point, "--reserve="+reserve)
		require.Equal(t, exitDone, code, stderr)
		require.Contains(t, stderr, "snapfs: a reserve of "+was)
		require.Contains(t, stderr, "too little to open the store after a crash on a full disk: it is 128MiB\n")
		require.Contains(t, done(t, "status", "--json", point), `"reserve":134217728`)
		require.NotContains(t, done(t, "log", point), "small-reserve")
		done(t, "umount", point)
	}
}

// A mount of a version that took less goes on with that, and says so.
func TestSmallReserveGoesOn(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	spec := mountSpec{store: filepath.Join(dir, "store"), mountpoint: filepath.Join(dir, "mnt"), snapdir: "hidden", mapMemory: 64 << 20}
	spec.reserve.Bytes = 16 << 20
	require.NoError(t, os.Mkdir(spec.mountpoint, 0o755))
	unmountAtEnd(t, spec.mountpoint)
	require.NoError(t, (&app{stdout: io.Discard, stderr: io.Discard}).startDaemon(t.Context(), spec))
	done(t, "upgrade", spec.mountpoint)
	require.Contains(t, done(t, "status", "--json", spec.mountpoint), `"reserve":16777216`)
	require.Contains(t, done(t, "log", spec.mountpoint), "small-reserve reserve=16777216")
}
