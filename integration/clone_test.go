package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/integration/guest"
)

// TestClones makes a hundred machines of one golden image, which then goes.
func TestClones(t *testing.T) {
	m := newMount(t)
	golden := m.vm("golden")
	disk := m.disk("golden", "root.img", 10<<30)
	f := open(t, disk, os.O_RDWR)
	offsets := []int64{0, 4<<20 - 2000, 3<<30 + 7, 10<<30 - 5000}
	content := func(off int64) []byte { return pattern(uint64(off), 5000) }
	for _, off := range offsets {
		writeAt(t, f, content(off), off)
	}
	require.NoError(t, f.Close())
	writeFile(t, filepath.Join(golden, "domain.xml"), []byte("<domain/>"))
	mustCommand(t, golden, "create", "image")
	writeFile(t, filepath.Join(golden, "domain.xml"), []byte("<domain later=''/>"))

	const clones = 100
	name := func(i int) string { return fmt.Sprint("clone", i) }
	before, start := m.storeBytes(), time.Now()
	for i := range clones {
		mustCommand(t, golden, "clone", "image to="+name(i))
	}
	t.Logf("%d clones of 10 GiB in %v", clones, time.Since(start))
	require.Equal(t, before, m.storeBytes(), "a clone takes no space")
	mustCommand(t, m.path(name(0)), "create", "own")
	mustSnapfs(t, "clone", m.path(name(0))+"@own", m.path("grandchild"))
	for i := range clones {
		f := open(t, m.path(name(i), "root.img"), os.O_RDWR)
		writeAt(t, f, []byte(name(i)), 1<<30)
		require.NoError(t, f.Close())
	}

	requireWhole := func(vm string) {
		t.Helper()
		require.ElementsMatch(t, []string{"root.img", "domain.xml"}, names(t, vm))
		requireContent(t, []byte("<domain/>"), filepath.Join(vm, "domain.xml"))
		f := open(t, filepath.Join(vm, "root.img"), os.O_RDONLY)
		defer f.Close()
		require.EqualValues(t, 10<<30, fstat(t, f).Size)
		for _, off := range offsets {
			got := make([]byte, 5000)
			_, err := f.ReadAt(got, off)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content(off), got), "%s at %d", vm, off)
		}
	}
	requireAllWhole := func() {
		t.Helper()
		for i := range clones {
			requireWhole(m.path(name(i)))
			got := make([]byte, 20)
			f := open(t, m.path(name(i), "root.img"), os.O_RDONLY)
			_, err := f.ReadAt(got, 1<<30)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.Equal(t, name(i), string(bytes.TrimRight(got, "\x00")))
		}
		requireWhole(m.path("grandchild"))
	}
	requireAllWhole()
	mustCommand(t, golden, "delete", "image")
	requireAllWhole()
	mustSnapfs(t, "destroy", "--yes", golden)
	require.NoDirExists(t, golden)
	mustSnapfs(t, "destroy", "--yes", m.path(name(0))) // what the grandchild grew from
	m.stop()
	m.check()
	m.start()
	requireWhole(m.path("grandchild"))
	mustCommand(t, m.path("grandchild"), "create", "last")
	mustSnapfs(t, "clone", m.path("grandchild")+"@last", name(0)) // the name is free again
	requireWhole(m.path(name(0)))
	for i := 1; i < clones; i++ {
		requireWhole(m.path(name(i)))
		mustSnapfs(t, "destroy", "--yes", m.path(name(i)))
	}
	requireWhole(m.path("grandchild"))
}

// TestCloneRefusals is what is refused, and that nothing comes of it.
func TestCloneRefusals(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "content")
	m.vm("other")
	mustCommand(t, vm, "create", "base")
	for line, errno := range map[string]syscall.Errno{
		"base to=vm": syscall.EEXIST, "base to=other": syscall.EEXIST, "none to=new": syscall.ENOENT,
		"base": syscall.EINVAL, "base to=": syscall.EINVAL, "\n": syscall.EINVAL, "to=new": syscall.EINVAL,
		"base to=new files=disk": syscall.EINVAL, "base to=.snapshots": syscall.EINVAL, "base to=a@b": syscall.EINVAL,
		`{"name": "base", "to": "a/b"}`: syscall.EINVAL,
	} {
		failCommand(t, errno, vm, "clone", line)
	}
	require.Equal(t, []string{"other", "vm"}, names(t, m.dir))
	failSnapfs(t, "is not in the mount of", "clone", vm+"@base", filepath.Join(t.TempDir(), "new"))
	require.Equal(t, 2, snapfs(t, "clone", vm, "new").code)
	mustSnapfs(t, "clone", vm+"@base", "new")
	requireContent(t, []byte("content"), m.path("new", "disk"))
	require.Contains(t, mustSnapfs(t, "log", vm), "to=new")
}

// TestCloneCrash kills the daemon right after a clone is answered, and while one
// is made: a clone is there whole, or not at all.
func TestCloneCrash(t *testing.T) {
	m := newMount(t)
	vm := newHistory(t, m, "vm")
	for i := range 20 {
		name := fmt.Sprint("clone", i)
		f := open(t, snapshotPath(vm, "clone"), os.O_WRONLY)
		answered := make(chan error, 1)
		go func() {
			_, err := f.WriteString("one to=" + name)
			answered <- err
		}()
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		m.kill()
		err := <-answered
		_ = f.Close() // of a file system that is gone
		m.start()
		_, statErr := os.Stat(m.path(name))
		if err == nil {
			require.NoError(t, statErr, "the clone had been answered")
		}
		if statErr == nil {
			require.Equal(t, "one", filling(t, m.path(name)))
		}
	}
}

// TestCloneGuests boots two machines at once from clones of one image, whose
// origin is gone by then.
func TestCloneGuests(t *testing.T) {
	m := newMount(t)
	work := t.TempDir()
	golden := m.vm("golden")
	g := startGuest(t, work, "golden", m.disk("golden", "root.img", 64<<20))
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && seq 100000 >/mnt/system && umount /mnt")
	mustCommand(t, golden, "create", "image")
	require.NoError(t, g.Quit(t.Context()))
	clones := []string{"alpha", "beta"}
	for _, name := range clones {
		mustSnapfs(t, "clone", golden+"@image", name)
	}
	mustSnapfs(t, "destroy", golden, "--yes")
	together(t, len(clones), func(i int) error {
		g, err := guest.Start(t.Context(), guest.Config{Name: clones[i], Dir: work, Disks: []string{m.path(clones[i], "root.img")}})
		if err != nil {
			return err
		}
		defer g.Kill()
		_, err = g.Run(t.Context(), "mount /dev/vda /mnt && seq 100000 | cmp - /mnt/system && ! test -e /mnt/name && echo "+
			clones[i]+" >/mnt/name && sync")
		if err != nil {
			return err
		}
		return g.Stop(t.Context())
	})
	for _, name := range clones {
		run(t, "e2fsck", "-f", "-n", m.path(name, "root.img"))
	}
}
