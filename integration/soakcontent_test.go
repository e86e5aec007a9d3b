package integration

// What the disks of a VM of the soak test hold, or those of a snapshot of it.

import (
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// content is a checksum for each block of each disk.
type content [][]uint64

var contentSeed = maphash.MakeSeed()

// read reads the disks in a directory.
func (s *soak) read(dir string) (content, error) {
	buffer, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	c := make(content, soakDisks)
	for d := range c {
		if c[d], err = sumBlocks(filepath.Join(dir, soakDisk(d)), buffer); err != nil {
			return nil, err
		}
		s.compared.Add(int64(len(c[d])) * modelBlock)
	}
	return c, nil
}

// sumBlocks reads a file past the page cache, which would tell what it was told before.
func sumBlocks(path string, buffer []byte) (sums []uint64, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for {
		n, err := f.Read(buffer)
		for b := 0; b < n; b += modelBlock {
			sums = append(sums, maphash.Bytes(contentSeed, buffer[b:min(b+modelBlock, n)]))
		}
		if err == io.EOF {
			return sums, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// compare says where a directory's disks differ from what they should hold.
func (v *soakVM) compare(what, dir string, want content) error {
	got, err := v.read(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for d := range want {
		if len(got[d]) != len(want[d]) {
			return fmt.Errorf("%s: disk %d has %d blocks instead of %d", what, d, len(got[d]), len(want[d]))
		}
		differ, first := 0, 0
		for b := range want[d] {
			if got[d][b] != want[d][b] {
				if differ++; differ == 1 {
					first = b
				}
			}
		}
		if differ > 0 {
			return fmt.Errorf("%s: %d blocks of disk %d are not what they should be, the first is %d", what, differ, d, first)
		}
	}
	return nil
}
