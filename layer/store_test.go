package layer

// Opening and refusing stores, and what of VMs and files lasts.

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOpenMakesAStore(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "a", "b")
	s := openStore(t, missing, Options{})
	require.Equal(t, missing, s.Dir())
	require.Empty(t, s.VMs())
	for _, name := range []string{formatName, lockName, indexName, layersName} {
		_, err := os.Stat(filepath.Join(missing, name))
		require.NoError(t, err)
	}
	openStore(t, t.TempDir(), Options{}) // empty

	// A mkfs, or a start that came to nothing, is no reason to refuse.
	used := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(used, "lost+found"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(used, lockName), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(used, formatName+".tmp"), []byte("{"), 0o600))
	openStore(t, used, Options{})
}

func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, dir string)
		errno syscall.Errno
		text  string
	}{
		"no FORMAT": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, formatName)))
		}, syscall.EINVAL, "FORMAT"},
		"a newer version": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, formatName), []byte(`{"store":"snapfs","version":999}`), 0o600))
		}, syscall.EINVAL, "999"},
		"another program's FORMAT": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, formatName), []byte(`{"store":"zfs","version":1}`), 0o600))
		}, syscall.EINVAL, "FORMAT"},
		"an empty FORMAT": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, formatName), 0))
		}, syscall.EINVAL, "FORMAT"},
		"no layers": {func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, layersName)))
		}, syscall.EIO, layersName},
		"no index": {func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, indexName)))
		}, syscall.EIO, indexName},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			f := makeFile(t, makeVM(t, s, "web"), "root", blockSize)
			write(t, f, blocksOf(1, 1), 0)
			require.NoError(t, s.Close())
			test.spoil(t, s.dir)
			before := treeOf(t, s.dir)
			_, err := Open(s.dir, Options{})
			require.Error(t, err)
			require.Equal(t, test.errno, Errno(err))
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, s.dir)
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, before, treeOf(t, s.dir), "what is refused is not touched")
		})
	}
}

// treeOf lists the files of a directory with their sizes, but for the lock.
func treeOf(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	files := make(map[string]int64)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && info.Name() != lockName {
			files[strings.TrimPrefix(path, dir)] = info.Size()
		}
		return err
	})
	require.NoError(t, err)
	return files
}

func TestStoreIsLocked(t *testing.T) {
	s := newStore(t, Options{})
	_, err := Open(s.dir, Options{})
	require.ErrorIs(t, err, syscall.EBUSY)
	require.ErrorContains(t, err, s.dir)
	_, err = Check(s.dir)
	require.ErrorIs(t, err, syscall.EBUSY)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
	openStore(t, s.dir, Options{})
}

func TestIDsAreNeverGivenOutAgain(t *testing.T) {
	s := newStore(t, Options{})
	seen := make(map[uint64]bool)
	fresh := func(id uint64) {
		require.NotZero(t, id)
		require.Less(t, id, uint64(1)<<60)
		require.False(t, seen[id], "id %d", id)
		seen[id] = true
	}
	for range 4 {
		v := makeVM(t, s, "web")
		f := makeFile(t, v, "root", 0)
		snapshot(t, v, "s")
		n, err := v.Snapshot("s")
		require.NoError(t, err)
		fresh(uint64(v.ID()))
		fresh(uint64(f.ID()))
		fresh(uint64(n.ID()))
		fresh(uint64(n.Views()[0].ID()))
		drop(t, v, "s")
		require.NoError(t, v.Unlink("root"))
		require.NoError(t, s.RemoveVM("web"))
		settle(t, s)
		s = reopen(t, s)
	}
}

func TestLookups(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 0)
	snapshot(t, v, "s")
	n, err := v.Snapshot("s")
	require.NoError(t, err)
	w, err := n.View("root")
	require.NoError(t, err)

	for range 2 { // before and after a restart
		foundVM, err := s.VMByID(v.ID())
		require.NoError(t, err)
		require.Equal(t, "web", foundVM.Name())
		foundFile, err := s.FileByID(f.ID())
		require.NoError(t, err)
		require.Equal(t, "root", foundFile.Name())
		require.Same(t, foundVM, foundFile.VM())
		foundSnapshot, err := s.SnapshotByID(n.ID())
		require.NoError(t, err)
		require.Equal(t, "s", foundSnapshot.Name())
		foundView, err := s.ViewByID(w.ID())
		require.NoError(t, err)
		require.Equal(t, "root", foundView.Name())
		require.Same(t, foundSnapshot, foundView.Snapshot())
		s = reopen(t, s)
	}

	_, err = s.VM("other")
	require.ErrorIs(t, err, syscall.ENOENT)
	_, err = s.VMByID(1 << 50)
	require.ErrorIs(t, err, syscall.ESTALE)
	_, err = s.FileByID(1 << 50)
	require.ErrorIs(t, err, syscall.ESTALE)
	_, err = s.SnapshotByID(1 << 50)
	require.ErrorIs(t, err, syscall.ESTALE)
	_, err = s.ViewByID(1 << 50)
	require.ErrorIs(t, err, syscall.ESTALE)
	v = vmNamed(t, s, "web")
	_, err = v.Lookup("other")
	require.ErrorIs(t, err, syscall.ENOENT)
	_, err = v.Snapshot("other")
	require.ErrorIs(t, err, syscall.ENOENT)
	n, err = v.Snapshot("s")
	require.NoError(t, err)
	_, err = n.View("other")
	require.ErrorIs(t, err, syscall.ENOENT)
}

func TestVMsAreMadeRenamedAndRemoved(t *testing.T) {
	s := newStore(t, Options{})
	web := makeVM(t, s, "web")
	makeVM(t, s, "db")
	_, err := s.CreateVM("web", 0o755, 0, 0)
	require.ErrorIs(t, err, syscall.EEXIST)
	makeFile(t, web, "root", 0)
	require.ErrorIs(t, s.RemoveVM("web"), syscall.ENOTEMPTY)
	require.ErrorIs(t, s.RemoveVM("none"), syscall.ENOENT)
	require.ErrorIs(t, s.RenameVM("none", "x", false), syscall.ENOENT)
	require.ErrorIs(t, s.RenameVM("db", "web", false), syscall.ENOTEMPTY)
	require.ErrorIs(t, s.RenameVM("web", "db", true), syscall.EEXIST)
	require.NoError(t, s.RenameVM("web", "db", false), "an empty one is replaced")
	require.Equal(t, "db", web.Name())
	require.NoError(t, s.RenameVM("db", "app", true))

	// A snapshot without files keeps a VM, too.
	empty := makeVM(t, s, "empty")
	snapshot(t, empty, "s")
	require.ErrorIs(t, s.RemoveVM("empty"), syscall.ENOTEMPTY)
	drop(t, empty, "s")
	require.NoError(t, s.RemoveVM("empty"))
	_, _, err = empty.Create("late", 0o644, 0, 0, false)
	require.ErrorIs(t, err, syscall.ENOENT)

	s = reopen(t, s)
	require.Len(t, s.VMs(), 1)
	require.Equal(t, web.ID(), vmNamed(t, s, "app").ID())
	fileNamed(t, vmNamed(t, s, "app"), "root")
}

func TestAttributesLast(t *testing.T) {
	s := newStore(t, Options{})
	mode, uid, gid := uint32(0o640), uint32(7), uint32(8)
	mtime := time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)
	set := SetAttr{Mode: &mode, UID: &uid, GID: &gid, Mtime: &mtime}
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 100)
	wantFile, err := f.SetAttr(set)
	require.NoError(t, err)
	wantVM, err := v.SetAttr(set)
	require.NoError(t, err)
	for range 2 {
		for _, a := range []Attr{vmNamed(t, s, "web").Attr(), fileNamed(t, vmNamed(t, s, "web"), "root").Attr()} {
			require.Equal(t, mode, a.Mode)
			require.Equal(t, uid, a.UID)
			require.Equal(t, gid, a.GID)
			require.True(t, mtime.Equal(a.Mtime))
		}
		require.EqualValues(t, 100, wantFile.Size)
		require.EqualValues(t, 2, wantVM.Nlink)
		s = kill(t, s, filepath.Join(t.TempDir(), "copy")) // they are durable at once
		defer s.Close()
	}

	// A later change of something else leaves the time that a write set.
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	write(t, f, []byte("x"), 0)
	written := f.Attr().Mtime
	require.True(t, written.After(mtime))
	require.NoError(t, f.Flush(false))
	mode = 0o600
	_, err = f.SetAttr(SetAttr{Mode: &mode})
	require.NoError(t, err)
	s = reopen(t, s)
	require.True(t, written.Equal(fileNamed(t, vmNamed(t, s, "web"), "root").Attr().Mtime))

	size := int64(1)
	_, err = vmNamed(t, s, "web").SetAttr(SetAttr{Size: &size})
	require.ErrorIs(t, err, syscall.EISDIR)
}
