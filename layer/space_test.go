package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReserve(t *testing.T) {
	const gib = int64(1 << 30)
	for _, test := range []struct {
		reserve     Reserve
		total, want int64
	}{
		{Reserve{}, 10 * gib, gib / 2},
		{Reserve{}, gib, 128 << 20},
		{Reserve{}, 1000 * gib, 4 * gib},
		{Reserve{Bytes: 5}, 1000 * gib, 5},
		{Reserve{Percent: 10}, 1000 * gib, 100 * gib},
		{Reserve{Percent: 0.5}, 1000 * gib, 5 * gib},
	} {
		require.Equal(t, test.want, test.reserve.Of(test.total), "%+v of %d", test.reserve, test.total)
	}
}

// fill makes a store with a disk and a snapshot and opens it again so that nothing is free above the reserve.
func fill(t *testing.T) (s *Store, v *VM, f *File, before []byte) {
	t.Helper()
	s = newStore(t, Options{})
	v = makeVM(t, s, "web")
	f = makeFile(t, v, "root", 16*blockSize+100)
	write(t, f, blocksOf(1, 4), 0)
	snapshot(t, v, "s")
	write(t, f, blocksOf(2, 2), 0)
	before = content(t, f)
	require.NoError(t, s.Close())
	s = openStore(t, s.dir, Options{Reserve: Reserve{Bytes: 1 << 60}})
	v = vmNamed(t, s, "web")
	return s, v, fileNamed(t, v, "root"), before
}

// Below the reserve, what takes room is refused and changes nothing; what takes none goes on.
func TestBelowTheReserve(t *testing.T) {
	s, v, f, before := fill(t)
	attr := f.Attr()
	for name, refused := range map[string]func() error{
		"a new block":       func() error { _, err := f.Write(blocksOf(3, 1), 8*blockSize, true); return err },
		"over a snapshot":   func() error { _, err := f.Write(blocksOf(3, 1), 2*blockSize, true); return err },
		"a part of a block": func() error { _, err := f.Write([]byte("x"), 2*blockSize+5, true); return err },
		"past the end":      func() error { _, err := f.Write([]byte("x"), 40*blockSize, true); return err },
		"a snapshot":        func() error { _, err := v.CreateSnapshot(CreateOptions{Name: "t"}); return err },
		"a clone":           func() error { _, err := v.Clone("s", "copy"); return err },
		"room":              func() error { return f.Allocate(0, 100*blockSize, false) },
	} {
		err := refused()
		require.Equal(t, syscall.ENOSPC, Errno(err), "%s: %v", name, err)
		require.NotContains(t, err.Error(), "\n")
		requireSame(t, before, content(t, f), "the file, refused %s", name)
		require.Equal(t, attr.Size, f.Attr().Size, name)
		require.Equal(t, attr.Blocks, f.Attr().Blocks, name)
	}
	require.Zero(t, s.Stats().Avail)
	require.NotZero(t, s.Stats().Total)

	write(t, f, blocksOf(4, 2), 0) // in place
	require.NoError(t, f.Discard(2*blockSize, blockSize))
	resize(t, f, 20*blockSize)
	resize(t, f, 2*blockSize)
	flush(t, f)
	requireSame(t, blocksOf(4, 2), content(t, f), "the file")
	_, err := v.RenameSnapshot("s", "t")
	require.NoError(t, err)
	drop(t, v, "t")
	settle(t, s)
	require.EqualValues(t, 2*blockSize, s.Stats().LayerBytes)
	require.EqualValues(t, 2*blockSize, allocated(t, layersDir(s)))
}

// The operator hears of it once, not with every write, and hears when it is over.
func TestSpaceEvents(t *testing.T) {
	var events []string
	p, err := newSpace(t.TempDir(), Reserve{Bytes: 1 << 60}, func(vm, event string, attrs ...any) {
		require.Empty(t, vm)
		require.Zero(t, len(attrs)%2)
		events = append(events, event)
	})
	require.NoError(t, err)
	for range 3 {
		require.ErrorIs(t, p.take(blockSize), syscall.ENOSPC)
	}
	p.reserve = 1
	for range 3 {
		require.NoError(t, p.take(blockSize))
	}
	require.Equal(t, []string{"space-low", "space-ok"}, events)
}

// A real file system that fills up: nobody gets anything but ENOSPC, the reserve stays, and deleting makes room.
func TestFullFileSystem(t *testing.T) {
	d := newDisk(t)
	s, err := Open(filepath.Join(d.mount, "store"), Options{Reserve: Reserve{Bytes: 600 << 20}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 1<<40)
	chunk := pattern(1, 1<<20)
	wrote := 0
	for round := 0; err == nil; round++ {
		for i := 0; i < 100 && err == nil; i++ {
			if _, err = f.Write(chunk, int64(i)<<20, true); err == nil {
				wrote++
			}
		}
		if err == nil {
			_, err = v.CreateSnapshot(CreateOptions{Name: fmt.Sprintf("s%d", round)})
		}
	}
	require.Equal(t, syscall.ENOSPC, Errno(err), "%v", err)
	require.Greater(t, wrote, 200)
	require.NoError(t, f.Flush(true), "what was accepted can be flushed")
	require.Greater(t, s.Stats().Free, s.Stats().Reserve*9/10)
	for _, n := range v.Snapshots() {
		drop(t, v, n.Name())
	}
	settle(t, s)
	for i := range 100 {
		write(t, f, chunk, int64(i)<<20)
	}
	flush(t, f)
	settle(t, s)
	require.EqualValues(t, 100<<20, s.Stats().LayerBytes)
}

// What is free is known wherever the store's directory is by now: guests are not refused anything when it is renamed.
func TestRenamedStoreHasRoom(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 16*blockSize)
	require.NoError(t, os.Rename(s.dir, s.dir+".moved"))
	defer func() { require.NoError(t, os.Rename(s.dir+".moved", s.dir)) }()
	s.space.due.Store(0) // no measurement of before
	write(t, f, blocksOf(1, 4), 0)
	requireSame(t, blocksOf(1, 4), content(t, f)[:4*blockSize], "the file")
	require.NotZero(t, s.Stats().Free)
}
