package main

// Disks of a VM, written as QEMU does with cache=none: past the page cache of whoever asks.

import (
	"math/rand/v2"
	"os"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	blockSize = 4 << 10
	runSize   = 64 << 10 // what disks are filled in: a cluster of qcow2, so that nothing has to be copied up
	mib       = 1 << 20
	gib       = 1 << 30
	tib       = 1 << 40
)

// disk is a file open for direct I/O.
type disk struct {
	s *scope
	*os.File
	buf []byte // 1 MiB, aligned as direct I/O wants it, of random content
	rng *rand.Rand
}

// newDisk makes a file of so many bytes, or gives one that is there that size.
func newDisk(s *scope, path string, size int64) *disk {
	d := openDisk(s, path, unix.O_DIRECT)
	require.NoError(s, d.Truncate(size))
	return d
}

// openDisk opens a file, or makes an empty one.
func openDisk(s *scope, path string, flags int) *disk {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|flags, 0o644)
	require.NoError(s, err)
	buf, err := unix.Mmap(-1, 0, mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(s, err)
	source := rand.NewChaCha8([32]byte{byte(f.Fd())})
	_, _ = source.Read(buf) // never fails
	d := &disk{s, f, buf, rand.New(source)}
	s.cleanup(d.release)
	return d
}

// release closes the disk; more than once is fine.
func (d *disk) release() {
	if d.buf != nil {
		buf := d.buf
		d.buf = nil
		require.NoError(d.s, d.Close())
		require.NoError(d.s, unix.Munmap(buf))
	}
}

// fill writes everything from off up to end, which are multiples of 1 MiB.
func (d *disk) fill(off, end int64) {
	for ; off < end; off += mib {
		_, err := d.WriteAt(d.buf, off)
		require.NoError(d.s, err)
	}
}

// fillRuns writes runs of 64 KiB, given by their numbers.
func (d *disk) fillRuns(runs []int) {
	for _, run := range runs {
		d.write(int64(run)*runSize, runSize)
	}
}

// scatter writes n blocks at random places below end.
func (d *disk) scatter(n int, end int64) {
	for range n {
		d.write(d.rng.Int64N(end/blockSize)*blockSize, blockSize)
	}
}

// write writes so many bytes at off.
func (d *disk) write(off, size int64) {
	content := d.rng.Int64N(mib/size) * size
	_, err := d.WriteAt(d.buf[content:][:size], off)
	require.NoError(d.s, err)
}

// read reads a block at a random place below end.
func (d *disk) read(end int64) {
	_, err := d.ReadAt(d.buf[:blockSize], d.rng.Int64N(end/blockSize)*blockSize)
	require.NoError(d.s, err)
}

// warm reads everything below end, which brings it into the host's page cache and the map into memory.
func (d *disk) warm(end int64) {
	for off := int64(0); off < end; off += mib {
		_, err := d.ReadAt(d.buf, off)
		require.NoError(d.s, err)
	}
}
