package layer

// Data files: one sparse file a layer, named by the layer's id, opened when first needed and closed when cold.

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const blockSize = blockmap.BlockSize

// dataFile is a layer's data file, open or not.
type dataFile struct {
	fd   atomic.Int64 // descriptor + 1; 0: not open
	used atomic.Bool  // since the clock's hand last passed
}

// dataFiles opens and closes the layers' data files, at most limit at once.
type dataFiles struct {
	dir     string
	dirFD   int
	epochs  *epochs
	limit   int
	sums    *sums
	windows *windows // that show something of them

	mu    sync.Mutex // guards opening, closing and what follows
	clock []*layer   // the open ones
	hand  int
	extra int // asked to be closed, not closed yet

	crowded chan struct{} // told when too many are open, and none can be closed before it is flushed
}

func openDataFiles(dir string, limit int, e *epochs) (*dataFiles, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, Errorf(syscall.EIO, "open %s: %w", dir, err)
	}
	return &dataFiles{dir: dir, dirFD: fd, epochs: e, limit: limit, crowded: make(chan struct{}, 1)}, nil
}

// fileName is the data file's name in layers/: names of VMs and disks never reach a path on the host.
func fileName(id LayerID) string { return fmt.Sprintf("%016x", uint64(id)) }

// open returns the descriptor of lay's data file. With create the file is made if the index does not know it; what
// an earlier life of the layer left there was never flushed, and is cut off.
//
// The caller is in an epoch, and uses the descriptor no longer than that.
func (d *dataFiles) open(lay *layer, create bool) (int, error) {
	if fd := lay.data.fd.Load(); fd != 0 {
		if !lay.data.used.Load() {
			lay.data.used.Store(true)
		}
		return int(fd - 1), nil
	}
	return d.openSlow(lay, create)
}

func (d *dataFiles) openSlow(lay *layer, create bool) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fd := lay.data.fd.Load(); fd != 0 {
		return int(fd - 1), nil
	}
	// Without access times: nobody asks for them, and reading a snapshot would write as many inodes as it has layers.
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOATIME
	fresh := create && !lay.hasFile.Load()
	if fresh {
		flags |= unix.O_CREAT | unix.O_TRUNC
	}
	fd, err := openAt(d.dirFD, filepath.Join(d.dir, fileName(lay.id)), flags)
	if err != nil {
		return -1, hostError("open data file", lay, err)
	}
	if fresh {
		lay.hasFile.Store(true)
	}
	lay.data.used.Store(true)
	lay.data.fd.Store(int64(fd) + 1)
	d.clock = append(d.clock, lay)
	if len(d.clock)-d.extra > d.limit {
		d.extra++
		go d.makeRoom()
	}
	return fd, nil
}

// make makes the data file of a layer that has none.
func (d *dataFiles) make(lay *layer) error {
	slot := d.epochs.enter()
	defer d.epochs.leave(slot)
	_, err := d.open(lay, true)
	return err
}

// evict closes the coldest file. Only it and close wait for epochs, and they hold no lock meanwhile.
func (d *dataFiles) evict() (found bool) {
	d.mu.Lock()
	lay := d.coldest()
	if lay == nil {
		d.extra--
		d.mu.Unlock()
		return false
	}
	fd := int(lay.data.fd.Load() - 1)
	lay.data.fd.Store(0)
	d.remove(lay)
	d.extra--
	d.mu.Unlock()

	d.windows.forget(lay)
	d.epochs.wait()
	_ = unix.Close(fd)
	return true
}

// makeRoom evicts a file, or asks for a flush where none can be closed before that.
func (d *dataFiles) makeRoom() {
	if d.evict() {
		return
	}
	select {
	case d.crowded <- struct{}{}:
	default:
	}
}

// trim closes what is open beyond the limit and can be closed.
func (d *dataFiles) trim() {
	d.mu.Lock()
	n := max(len(d.clock)-d.extra-d.limit, 0)
	d.extra += n
	d.mu.Unlock()
	for range n {
		d.evict()
	}
}

// coldest leaves out what has writes that are not synced: an error of their writeback is told to descriptors that
// are open then, and a flush has to hear of it.
func (d *dataFiles) coldest() *layer {
	for range 2 * len(d.clock) {
		d.hand = (d.hand + 1) % len(d.clock)
		lay := d.clock[d.hand]
		if w := lay.writer(); w != nil && w.unsynced.Load() > 0 {
			continue
		}
		if !lay.data.used.Swap(false) {
			return lay
		}
	}
	return nil
}

func (d *dataFiles) remove(lay *layer) {
	for i, other := range d.clock {
		if other == lay {
			last := len(d.clock) - 1
			d.clock[i], d.clock[last] = d.clock[last], nil
			d.clock = d.clock[:last]
			return
		}
	}
}

// close closes lay's file once nobody uses it.
func (d *dataFiles) close(lay *layer) {
	d.mu.Lock()
	fd := lay.data.fd.Swap(0)
	d.remove(lay)
	d.mu.Unlock()
	if fd != 0 {
		d.windows.forget(lay)
		d.epochs.wait()
		_ = unix.Close(int(fd - 1))
	}
}

// unlink closes and removes lay's file; one that is not there is fine.
func (d *dataFiles) unlink(lay *layer) error {
	d.close(lay)
	return d.unlinkID(lay.id)
}

func (d *dataFiles) unlinkID(id LayerID) error {
	if err := d.sums.remove(id); err != nil {
		return Errorf(syscall.EIO, "remove checksums: %w", err)
	}
	err := faultyAt("unlink", filepath.Join(d.dir, fileName(id)))
	if err == nil {
		err = unix.Unlinkat(d.dirFD, fileName(id), 0)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return Errorf(syscall.EIO, "remove data file %s: %w", filepath.Join(d.dir, fileName(id)), err)
	}
	return nil
}

// syncDir makes the names of new data files durable.
func (d *dataFiles) syncDir() error {
	err := faultyAt("sync", d.dir)
	if err == nil {
		err = unix.Fsync(d.dirFD)
	}
	if err != nil {
		return Errorf(syscall.EIO, "sync %s: %w", d.dir, err)
	}
	return nil
}

func (d *dataFiles) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.clock)
}

func (d *dataFiles) closeAll() {
	if d.windows != nil {
		d.windows.close()
	}
	d.mu.Lock()
	open := append([]*layer(nil), d.clock...)
	d.mu.Unlock()
	for _, lay := range open {
		d.close(lay)
	}
	_ = unix.Close(d.dirFD)
}

// readBlocks fills p from off of the data file. A layer that says it holds a block and does not is damaged: EIO, never
// zeros.
func readBlocks(fd int, lay *layer, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := pread(fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return hostError("read data file", lay, err)
		case n == 0:
			return Errorf(syscall.EIO, "data file %s ends at %d, before a block that it should hold", fileName(lay.id), off)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// pieceSize is how much is written at once, in bytes. The page cache keeps what is written at once in one folio, and a
// later 4 KiB write to ext4 walks over all blocks of its folio: 10 times as long in one of 1 MiB.
const pieceSize = 128 << 10

// writeBlocks writes all of p at off of the data file.
func writeBlocks(fd int, lay *layer, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := pwrite(fd, p[:min(len(p), pieceSize)], off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return hostError("write data file", lay, err)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// hostError is what a guest gets for an error of the store's file system.
func hostError(what string, lay *layer, err error) error {
	return Errorf(hostErrno(err), "%s %s: %w", what, fileName(lay.id), err)
}

// hostErrno is the errno for it. QEMU pauses a VM on ENOSPC and on nothing else, so a quota there is no space here. EFBIG is
// beyond the largest file of a host's file system, which may be smaller than ours.
func hostErrno(err error) syscall.Errno {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return syscall.ENOSPC
	case errors.Is(err, unix.EFBIG):
		return syscall.EFBIG
	}
	return syscall.EIO
}
