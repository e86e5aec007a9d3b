package fs

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// Every way to change what must not change, and its errno.
func TestRefusals(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	m.vm("db", "y")
	m.do("web", "create", "one")
	m.do("web", "create", "two")
	disk := m.path("web", "disk")
	control := m.path("web", layer.SnapDir, "create")
	one := m.path("web", layer.SnapDir, "one")
	view := m.path("web", layer.SnapDir, "one", "disk")
	open := func(path string, flags int) error {
		f, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			f.Close()
		}
		return err
	}
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"directory in a VM":         {os.Mkdir(m.path("web", "d"), 0o755), unix.EPERM},
		"file in the root":          {open(m.path("f"), os.O_CREATE|os.O_WRONLY), unix.EPERM},
		"symlink in the root":       {os.Symlink("x", m.path("l")), unix.EPERM},
		"symlink in a VM":           {os.Symlink("x", m.path("web", "l")), unix.EPERM},
		"device in a VM":            {unix.Mknod(m.path("web", "null"), unix.S_IFCHR|0o600, 0x103), unix.EPERM},
		"fifo in the root":          {unix.Mkfifo(m.path("fifo"), 0o600), unix.EPERM},
		"link":                      {os.Link(disk, m.path("web", "l")), unix.EPERM},
		"rename to another VM":      {os.Rename(disk, m.path("db", "disk2")), unix.EXDEV},
		"rename to the root":        {os.Rename(disk, m.path("disk")), unix.EPERM},
		"rename into .snapshots":    {os.Rename(disk, m.path("web", layer.SnapDir, "x")), unix.EXDEV},
		"file in .snapshots":        {open(m.path("web", layer.SnapDir, "f"), os.O_CREATE|os.O_WRONLY), unix.EPERM},
		"remove .snapshots":         {unix.Rmdir(m.path("web", layer.SnapDir)), unix.EPERM},
		"rename .snapshots":         {os.Rename(m.path("web", layer.SnapDir), m.path("web", "x")), unix.EPERM},
		"mkdir in the mount's":      {os.Mkdir(m.path(layer.SnapDir, "x"), 0o755), unix.EPERM},
		"remove a VM with files":    {unix.Rmdir(m.path("web")), unix.ENOTEMPTY},
		"remove a control file":     {os.Remove(control), unix.EPERM},
		"rename a control file":     {os.Rename(control, control+"2"), unix.EPERM},
		"chmod a control file":      {os.Chmod(control, 0o777), unix.EPERM},
		"chmod the root":            {os.Chmod(m.dir, 0o777), unix.EPERM},
		"chmod .snapshots":          {os.Chmod(m.path("web", layer.SnapDir), 0o777), unix.EPERM},
		"a snapshot twice":          {os.Mkdir(one, 0o755), unix.EEXIST},
		"a snapshot over another":   {unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, one[:len(one)-3]+"two", 0), unix.EEXIST},
		"exchange snapshots":        {unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, one[:len(one)-3]+"two", unix.RENAME_EXCHANGE), unix.EINVAL},
		"exchange VMs":              {unix.Renameat2(unix.AT_FDCWD, m.path("web"), unix.AT_FDCWD, m.path("db"), unix.RENAME_EXCHANGE), unix.EINVAL},
		"a bad snapshot name":       {os.Mkdir(m.path("web", layer.SnapDir, "a@b"), 0o755), unix.EINVAL},
		"a control file's name":     {os.Mkdir(m.path("web", layer.SnapDir, "policy"), 0o755), unix.EEXIST},
		"write to a snapshot":       {open(view, os.O_RDWR), unix.EROFS},
		"truncate in a snapshot":    {os.Truncate(view, 0), unix.EROFS},
		"chmod in a snapshot":       {os.Chmod(view, 0o777), unix.EROFS},
		"chmod a snapshot":          {os.Chmod(one, 0o777), unix.EROFS},
		"create in a snapshot":      {open(one+"/f", os.O_CREATE|os.O_WRONLY), unix.EROFS},
		"mkdir in a snapshot":       {os.Mkdir(one+"/d", 0o755), unix.EROFS},
		"symlink in a snapshot":     {os.Symlink("x", one+"/l"), unix.EROFS},
		"fifo in a snapshot":        {unix.Mkfifo(one+"/p", 0o600), unix.EROFS},
		"unlink in a snapshot":      {unix.Unlink(view), unix.EROFS},
		"rename in a snapshot":      {os.Rename(view, one+"/x"), unix.EROFS},
		"rename out of a snapshot":  {os.Rename(view, m.path("web", "x")), unix.EROFS},
		"rename into a snapshot":    {os.Rename(disk, one+"/x"), unix.EROFS},
		"hard link into a snapshot": {os.Link(disk, one+"/l"), unix.EROFS},
	} {
		require.ErrorIs(t, test.err, test.want, name)
	}
	require.Equal(t, []string{"disk"}, m.list("web"))
	require.Equal(t, "x", m.read("web", layer.SnapDir, "one", "disk"))
	log := m.read(layer.SnapDir, "log")
	require.Contains(t, log, "rmdir-failed errno=ENOTEMPTY")
	require.Contains(t, log, "snapfs destroy")
	require.NoError(t, os.Chmod(m.dir, 0o755), "what it is already")
}

// What fallocate does not know is refused without switching off what it does know.
func TestUnknownFallocate(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	f, err := os.OpenFile(m.path("web", "disk"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	fd := int(f.Fd())
	require.Equal(t, unix.EOPNOTSUPP, unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096))
	require.NoError(t, unix.Fallocate(fd, 0, 0, 8192))
	require.NoError(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	require.NoError(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 12288))
	info, err := f.Stat()
	require.NoError(t, err)
	require.EqualValues(t, 12288, info.Size())
	_, err = f.Seek(0, unix.SEEK_DATA)
	require.ErrorIs(t, err, unix.ENXIO)
}

func TestMountRefusals(t *testing.T) {
	m := mountStore(t, Options{})
	for _, test := range []struct{ dir, says string }{
		{m.dir, "mounted there already"},
		{m.dir + "/none", "no such file"},
		{m.store.Dir(), "not empty"},
		{os.Args[0], "not a directory"},
	} {
		_, err := Mount(m.store, Options{Mountpoint: test.dir})
		require.ErrorContains(t, err, test.says)
		require.ErrorContains(t, err, test.dir)
	}
}

// Somebody inside: EBUSY, and nothing ends. After the last one left: everything is given back.
func TestUnmount(t *testing.T) {
	store, err := layer.Open(t.TempDir(), layer.Options{})
	require.NoError(t, err)
	defer store.Close()
	before := descriptors(t)
	session, err := Mount(store, Options{Mountpoint: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(session.mountpoint+"/web", 0o755))
	f, err := os.Create(session.mountpoint + "/web/disk")
	require.NoError(t, err)
	require.ErrorIs(t, session.Unmount(), unix.EBUSY)
	_, err = f.WriteString("served on")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, session.Unmount())
	require.NoError(t, session.Wait())
	for _, link := range descriptors(t) {
		require.NotEqual(t, "/dev/fuse", link)
	}
	require.NotContains(t, before, "/dev/fuse")
	require.Empty(t, session.pool.free)
}

// descriptors are the files that this process has open.
func descriptors(t *testing.T) []string {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var links []string
	for _, e := range entries {
		if link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%s", e.Name())); err == nil {
			links = append(links, link)
		}
	}
	return links
}
