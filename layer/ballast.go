package layer

// The ballast: a part of the reserve that the store holds itself, as a file, so that nobody else on the file system can
// take it. The index writes through mappings, where a full disk is not an error but the death of the process; when it
// needs room that others have left none of, as much of the ballast is given up for it, and made anew when there is room again.
//
//	give up: cut the file, sync                crash: a shorter ballast, or none; the start makes it anew
//	make:    allocate, sync                    crash: the same

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	ballastName  = "ballast"
	ballastSize  = LeastReserve // bytes; never more than the reserve
	ballastStep  = 1 << 20      // bytes; less is not worth a sync
	ballastSpare = 1 << 20      // bytes left free when it is made
)

type ballast struct {
	file *os.File
	want int64        // bytes
	mu   sync.Mutex   // held from measuring what is free until it is taken or given
	held atomic.Int64 // bytes; changed under mu
}

func openBallast(dir string) (*ballast, error) {
	f, err := openFile(filepath.Join(dir, ballastName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW)
	if err != nil {
		return nil, Errorf(syscall.EIO, "open the ballast: %w", err)
	}
	b := &ballast{file: f}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, Errorf(syscall.EIO, "open the ballast: %w", err)
	}
	b.held.Store(min(st.Size, st.Blocks*512))
	return b, nil
}

// releaseLocked gives n bytes of it back to the file system, or what there is, and says how much that was.
func (b *ballast) releaseLocked(n int64) (int64, error) {
	held := b.held.Load()
	left := max(held-n, 0)
	if err := b.file.Truncate(left); err != nil {
		return 0, err
	}
	b.held.Store(left)
	// What was freed can be taken once the file system's journal has it.
	return held - left, syncFile(b.file)
}

// growLocked holds more of it, as far as free bytes go, and says how much.
func (b *ballast) growLocked(free int64) (int64, error) {
	held := b.held.Load()
	size := min(b.want, held+free-ballastSpare)
	if size < held+ballastStep && size < b.want || size <= held {
		return 0, nil
	}
	err := faulty("allocate")
	if err == nil {
		err = unix.Fallocate(int(b.file.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		b.want = 0 // a file system that can't hold room for later
		return 0, nil
	}
	if err != nil {
		return 0, errors.Join(err, b.file.Truncate(held)) // part of it may have been allocated
	}
	b.held.Store(size)
	return size - held, syncFile(b.file)
}

func (b *ballast) close() error { return b.file.Close() }
