package bench

// Disks of a VM, written as QEMU does with cache=none: past the page cache of whoever asks.

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	blockSize = 4 << 10
	mib       = 1 << 20
	gib       = 1 << 30
	tib       = 1 << 40
)

// disk is a file open for direct I/O.
type disk struct {
	t testing.TB
	*os.File
	buf []byte // 1 MiB, aligned as direct I/O wants it, of random content
	rng *rand.Rand
}

// newDisk makes a file of so many bytes, or gives one that is there that size.
func newDisk(t testing.TB, path string, size int64) *disk {
	t.Helper()
	d := openDisk(t, path)
	require.NoError(t, d.Truncate(size))
	return d
}

// openDisk opens a file, or makes an empty one.
func openDisk(t testing.TB, path string) *disk {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o644)
	require.NoError(t, err)
	buf, err := unix.Mmap(-1, 0, mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	source := rand.NewChaCha8([32]byte{byte(f.Fd())})
	_, _ = source.Read(buf) // never fails
	d := &disk{t, f, buf, rand.New(source)}
	t.Cleanup(d.release)
	return d
}

// release closes the disk; more than once is fine.
func (d *disk) release() {
	if d.buf != nil {
		require.NoError(d.t, d.Close())
		require.NoError(d.t, unix.Munmap(d.buf))
		d.buf = nil
	}
}

// fill writes everything from off up to end, which are multiples of 1 MiB.
func (d *disk) fill(off, end int64) {
	d.t.Helper()
	for ; off < end; off += mib {
		_, err := d.WriteAt(d.buf, off)
		require.NoError(d.t, err)
	}
}

// fillRandomly writes everything up to end, block by block in random order.
func (d *disk) fillRandomly(end int64) {
	d.t.Helper()
	for _, block := range d.rng.Perm(int(end / blockSize)) {
		d.write(int64(block))
	}
}

// scatter writes n blocks at random places below end.
func (d *disk) scatter(n int, end int64) {
	d.t.Helper()
	for range n {
		d.write(d.rng.Int64N(end / blockSize))
	}
}

// write writes a block.
func (d *disk) write(block int64) {
	content := d.rng.IntN(mib/blockSize) * blockSize
	_, err := d.WriteAt(d.buf[content:][:blockSize], block*blockSize)
	require.NoError(d.t, err)
}

// warm reads everything below end, which brings it into the host's page cache and the map into memory.
func (d *disk) warm(end int64) {
	d.t.Helper()
	for off := int64(0); off < end; off += mib {
		_, err := d.ReadAt(d.buf, off)
		require.NoError(d.t, err)
	}
}
