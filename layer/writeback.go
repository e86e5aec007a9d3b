package layer

// Writing back what is dirty of a data file, before it is synced, a little at a time: a sync hands the disk all of it at
// once, and whoever else syncs a block then waits until gigabytes of somebody else's are written.

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	// writebackBytes is how much at most is handed to the disk at a time, twice: while one is waited for, the next one is
	// in its queue.
	writebackBytes = 2 << 20
	// scatteredBytes is how much of it one system call hands over, where it lies in pieces.
	scatteredBytes = 128 << 10
	// writebackFrom is how much has to be unsynced for that to be worth it, in bytes.
	writebackFrom = 8 << 20
)

// extent is a part of a data file, in bytes.
type extent struct{ off, len int64 }

// writeBack writes what is dirty of a file. Without an error, or where the kernel can't do it, the sync that follows does
// the rest.
func writeBack(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	var before *extent
	write := func(e extent) error {
		err := eachDirty(fd, e, scatteredBytes, func(part extent) error {
			defer giveWay()
			return syncRange(fd, part, unix.SYNC_FILE_RANGE_WRITE)
		})
		if before != nil {
			const whole = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
			err = errors.Join(err, syncRange(fd, *before, whole))
		}
		before = &e
		return err
	}
	err := eachDirty(fd, extent{0, st.Size}, writebackBytes, write)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // cachestat is from Linux 6.5 on
	}
	return err
}

// handedAtOnce is how many runs of blocks a system call hands to the disk: a fifth of a millisecond's work, where each has to
// be allocated.
const handedAtOnce = 8

// handOver hands to the disk what the layer took since it was last flushed, a few runs of blocks at a time. A sync would do
// all of it in one go, and the kernel lets nobody else have the processor before it has: a guest whose reader loop is to run
// there waits for a millisecond or two. The sync that follows does the rest, and waits for all.
func handOver(fd int, b *batch) (err error) {
	var e extent
	n := 0
	for _, region := range b.regions() {
		delta, ok := b.deltas.Delta(region)
		if !ok {
			continue
		}
		delta.Data.Runs(func(from, to int) {
			if n++; n == 1 {
				e.off = int64(region*blockmap.RegionBlocks+uint64(from)) * blockSize
			}
			e.len = int64(region*blockmap.RegionBlocks+uint64(to))*blockSize - e.off
			if n == handedAtOnce {
				err = errors.Join(err, syncRange(fd, e, unix.SYNC_FILE_RANGE_WRITE))
				giveWay()
				n = 0
			}
		})
	}
	return err
}

// giveWay lets go on who waits for this processor. The scheduler would look for them at its next tick.
func giveWay() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

func syncRange(fd int, e extent, flags int) error {
	for {
		if err := unix.SyncFileRange(fd, e.off, e.len, flags); err != unix.EINTR {
			return err
		}
	}
}

// eachDirty calls fn for extents that together have all that is dirty in e, each with up to most bytes of that, or no longer
// than writebackBytes.
func eachDirty(fd int, e extent, most int64, fn func(extent) error) error {
	if e.len <= writebackBytes {
		return fn(e)
	}
	dirty, err := dirtyBytes(fd, e)
	switch {
	case err != nil || dirty == 0:
		return err
	case dirty <= most:
		return fn(e)
	}
	// In many parts: the kernel walks through all that it caches of each, so that levels cost more than parts.
	part := (e.len/16 + writebackBytes - 1) / writebackBytes * writebackBytes
	for off := e.off; off < e.off+e.len; off += part {
		if err := eachDirty(fd, extent{off, min(part, e.off+e.len-off)}, most, fn); err != nil {
			return err
		}
	}
	return nil
}

func dirtyBytes(fd int, e extent) (int64, error) {
	var stat unix.Cachestat_t
	err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(e.off), Len: uint64(e.len)}, &stat, 0)
	return int64(stat.Dirty) * int64(unix.Getpagesize()), err
}
