package layer

// A host's file system whose largest file is smaller than a disk may be: ext4 with blocks of 1 KiB, as mkfs.ext4 makes them
// below 512 MB.

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestShrinkWhereFilesAreSmall(t *testing.T) {
	d := newDisk(t, "-b", "1024")
	var events sync.Map
	s := openStore(t, filepath.Join(d.mount, "store"), Options{Event: func(_, event string, attrs ...any) { events.Store(event, attrs) }})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 15<<40)
	write(t, f, blocksOf(1, 2000), 0)
	require.NoError(t, f.Allocate(9000*blockSize, 2000*blockSize, true))
	flush(t, f)
	used := func() (bytes int64) {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(layersDir(s), fileName(f.state.Load().head.id)), &st))
		return st.Blocks * 512
	}
	require.GreaterOrEqual(t, used(), int64(4000*blockSize))

	_, err := f.Write(blocksOf(1, 1), 14<<40, true)
	require.Equal(t, unix.EFBIG, Errno(err), "%v", err)

	resize(t, f, 100*blockSize)
	f.awaitVoid()
	require.LessOrEqual(t, used(), int64(110*blockSize), "all of it is given back")
	requireSame(t, blocksOf(1, 100), content(t, f), "what stays")
	resize(t, f, 300*blockSize)
	write(t, f, blocksOf(2, 10), 250*blockSize)
	requireSame(t, append(append(blocksOf(1, 100), make([]byte, 150*blockSize)...), blocksOf(2, 10)...), content(t, f)[:260*blockSize], "grown again")
	for _, event := range []string{"reclaim-failed", "shrink-failed"} {
		_, told := events.Load(event)
		require.False(t, told, event)
	}
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// Room that can't be given back is told, and the disk goes on.
func TestShrinkThatGivesNothingBack(t *testing.T) {
	var events sync.Map
	fault = func(kind string) error {
		if kind == "cut" {
			return unix.EIO
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })
	s := newStore(t, Options{Event: func(_, event string, attrs ...any) { events.Store(event, attrs) }})
	f := makeFile(t, makeVM(t, s, "web"), "root", 1000*blockSize)
	write(t, f, blocksOf(1, 1000), 0)
	resize(t, f, 10*blockSize)
	f.awaitVoid()
	_, told := events.Load("reclaim-failed")
	require.True(t, told)
	resize(t, f, 1000*blockSize)
	requireSame(t, append(blocksOf(1, 10), make([]byte, 990*blockSize)...), content(t, f), "zeros behind the end")
	flush(t, f)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}
