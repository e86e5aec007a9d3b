package layer

import (
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// residency says of each of the first n blocks of a file whether it is in the page cache.
func residency(t *testing.T, path string, n int) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	mem, err := unix.Mmap(fd, 0, n*blockSize, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(mem)) }()
	pages := make([]byte, n)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&pages[0])))
	require.Zero(t, errno)
	for i := range pages {
		pages[i] &= 1
	}
	return pages
}

// What a read needs of several layers is asked of the disk at once, and nothing else is.
func TestReadAhead(t *testing.T) {
	every := sumsEvery
	sumsEvery = time.Hour // they would read all of it
	t.Cleanup(func() { sumsEvery = every })
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	const layers, run, rounds = 4, 16, 3
	const blocks = layers * run * rounds
	f := makeFile(t, v, "root", blocks*blockSize)
	var paths []string
	for i := range layers {
		if i > 0 {
			snapshot(t, v, string(rune('a'+i)))
		}
		for k := i * run; k < blocks; k += layers * run {
			write(t, f, blocksOf(byte(k+1), run), int64(k)*blockSize)
		}
		flush(t, f)
		paths = append(paths, filepath.Join(layersDir(s), fileName(f.state.Load().head.id)))
	}
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Fdatasync(fd))
		require.NoError(t, unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
		require.NoError(t, unix.Close(fd))
		require.NotContains(t, residency(t, path, run), byte(1), "nothing is cached")
	}
	const from, to = run, 2*layers*run + run/2 // the first run and most of the last round are not asked for
	s.readAhead(f.state.Load().chain.Map, (to-from)*blockSize, from*blockSize)
	for i, path := range paths {
		require.Eventually(t, func() bool {
			cached := residency(t, path, blocks)
			for b, c := range cached {
				if asked := b >= from && b < to && b/run%layers == i; asked && c == 0 {
					return false
				}
			}
			return true
		}, 10*time.Second, time.Millisecond, "layer %d", i)
		require.NotContains(t, residency(t, path, blocks)[to:], byte(1), "behind what was asked for")
	}
	for k := 0; k < blocks; k += run {
		p := make([]byte, run*blockSize)
		_, err := f.Read(p, int64(k)*blockSize)
		require.NoError(t, err)
		requireSame(t, blocksOf(byte(k+1), run), p, "blocks from %d", k)
	}
}
