package main

// File systems in a file, for peers that want one of their own.

import (
	"os"
	"path/filepath"

	"github.com/stretchr/testify/require"
)

// newFileSystem makes and mounts one, xfs or btrfs, of so many bytes, most of which do not exist.
func newFileSystem(s *scope, kind string, size int64) (mountpoint string) {
	image := filepath.Join(s.temp(), kind)
	f, err := os.Create(image)
	require.NoError(s, err)
	require.NoError(s, f.Truncate(size))
	require.NoError(s, f.Close())
	args := []string{"-q", image}
	if kind == "xfs" {
		args = []string{"-q", "-l", "size=64m", image}
	}
	run(s, "mkfs."+kind, args...)
	mountpoint = s.temp()
	run(s, "mount", "-o", "loop", image, mountpoint)
	s.cleanup(func() { run(s, "umount", mountpoint) })
	return mountpoint
}
