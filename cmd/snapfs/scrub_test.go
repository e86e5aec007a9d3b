package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sealedDisk makes a VM with a snapshot that has its checksums, and returns the data file of its disk.
func sealedDisk(t *testing.T, store, point string) (dir, dataFile string) {
	t.Helper()
	dir = newVM(t, point, "web", "hello")
	done(t, "create", dir, "one")
	require.Eventually(t, func() bool {
		var status struct {
			Bytes    int64 `json:"layer_bytes"`
			Unsummed int64 `json:"unsummed_bytes"`
		}
		require.NoError(t, json.Unmarshal([]byte(done(t, "status", point, "--json")), &status))
		return status.Bytes > 0 && status.Unsummed == 0
	}, patience, 100*time.Millisecond)
	files, err := filepath.Glob(filepath.Join(store, "layers", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files) // the snapshot's, and the new head's, which is empty
	return dir, files[0]
}

// damage flips a bit in the second block of a data file.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{1}, 4096)
	require.NoError(t, err)
}

func TestScrub(t *testing.T) {
	store, point := newMount(t)
	dir, file := sealedDisk(t, store, point)
	require.Contains(t, done(t, "scrub", point), "1 layer, 1.0MiB compared; 0B without checksums yet")
	require.Contains(t, refused(t, "scrub", dir), "is a VM")

	damage(t, file)
	code, stdout, stderr := snapfs("scrub", point)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stdout, "web@one/root.img: block 1 of data file ")
	require.Contains(t, stderr, "1 finding")
	require.Contains(t, done(t, "log", point), "damaged object=web@one/root.img")
	require.Equal(t, "hello", start(t, filepath.Join(dir, "root.img"), 5))
	_, err := os.ReadFile(filepath.Join(dir, "root.img"))
	require.NoError(t, err, "without --verify nobody compares")
}

func TestVerify(t *testing.T) {
	store, point := newMount(t, "--verify")
	dir, file := sealedDisk(t, store, point)
	disk := filepath.Join(dir, "root.img")
	_, err := os.ReadFile(disk)
	require.NoError(t, err)
	damage(t, file)
	require.Equal(t, "hello", start(t, disk, 5))
	_, err = os.ReadFile(disk)
	require.ErrorIs(t, err, unix.EIO)
}
