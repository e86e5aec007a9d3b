package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParseMountinfo(t *testing.T) {
	table, err := parseMountinfo(strings.NewReader(`22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 22 0:41 / /mnt/my\040vms rw,nosuid shared:1 master:2 - fuse.snapfs /var/lib/my\040store rw,user_id=0
`))
	require.NoError(t, err)
	require.Equal(t, []mountEntry{
		{id: 22, parent: 1, major: 254, point: "/", fsType: "ext4", source: "/dev/vda"},
		{id: 36, parent: 22, minor: 41, point: "/mnt/my vms", fsType: "fuse.snapfs", source: "/var/lib/my store"},
	}, table)
	for _, bad := range []string{"36 22 0:41 / /mnt rw", "36 22 x / /mnt rw - a b", "36 - a b"} {
		_, err := parseMountinfo(strings.NewReader(bad))
		require.Error(t, err, bad)
	}
}

func TestMountAt(t *testing.T) {
	root, err := mountAt("/")
	require.NoError(t, err)
	require.NotNil(t, root)
	none, err := mountAt(t.TempDir())
	require.NoError(t, err)
	require.Nil(t, none)
}

func TestResolve(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(dir+"/real", 0o755))
	require.NoError(t, os.Symlink("real", dir+"/link"))
	for path, want := range map[string]string{
		"/link": "/real", "/link/missing": "/real/missing", "/real/../real": "/real",
	} {
		got, err := resolve(dir + path)
		require.NoError(t, err)
		require.Equal(t, dir+want, got)
	}
	_, err = resolve(dir + "/missing/deeper")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.Symlink("round", dir+"/round"))
	_, err = resolve(dir + "/round")
	require.ErrorIs(t, err, unix.ELOOP)
}
