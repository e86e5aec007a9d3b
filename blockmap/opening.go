package blockmap

// This file sees to it that opening the index has room, and takes no more of it than it needs: on a full disk it comes from what
// the store holds itself, and others may be quicker to take what is given up.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// beforeOpen asks for what Badger writes when it opens: a table of each memtable that a crash left, and one compaction of those,
// as far as there is room for that. The log of the next memtable, which the crash left, too, is kept for the new one.
func (r *room) beforeOpen() error {
	logs, err := filepath.Glob(filepath.Join(r.dir, memPattern))
	if err != nil {
		return err
	}
	var tables int64
	for _, name := range logs {
		n, err := r.written(name)
		if err != nil {
			return err
		}
		if n > 0 {
			tables += n + tableOverhead
		} else if r.spare == nil {
			if r.spare, err = r.host.open(name, os.O_RDWR); err != nil {
				return err
			}
		}
	}
	n := headersSize + tables
	if r.spare == nil {
		n += logSize
	}
	more := r.compaction(tables)
	for more > 0 && !r.ask(n+more, false) {
		more /= 2
	}
	if !r.ask(n+more, true) { // only once: others may be quick enough to take whatever is given up
		return fmt.Errorf("%w: opening it takes %d MiB", ErrFull, n>>20)
	}
	return nil
}

// compaction is what a compaction of new tables takes: they and the lower levels are written anew.
func (r *room) compaction(tables int64) int64 {
	if tables == 0 {
		return 0
	}
	var lower int64
	names, _ := filepath.Glob(filepath.Join(r.dir, "*.sst"))
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			lower += info.Size()
		}
	}
	return tables + min(lower, levelsSize)
}

// written is how many bytes of a log have been written, or a little more; none, if it was only made. Its size says nothing: Badger
// makes it larger than it will ever be, and the room for it is allocated before.
func (r *room) written(name string) (n int64, err error) {
	f, err := r.host.open(name, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for end := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return min(n, memTableSize), nil
		}
		if err == nil {
			end, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		}
		if err != nil { // a file system that can't say
			end, err = f.Seek(0, io.SeekEnd)
			return min(end, memTableSize), err
		}
		n += end - from
	}
}

// opened allocates what will be written to the files that Badger has open.
func (r *room) opened(db *badger.DB) error {
	r.db = db
	r.dropSpare()
	for pattern, size := range map[string]int64{memPattern: logSize, "*.vlog": 1 << 16, "DISCARD": 1 << 20} {
		names, _ := filepath.Glob(filepath.Join(r.dir, pattern))
		for _, name := range names {
			err := r.allocateFile(name, size)
			if errors.Is(err, unix.ENOSPC) && r.ask(size, true) { // others were quicker
				err = r.allocateFile(name, size)
			}
			if errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("%w: its log takes %d MiB", ErrFull, size>>20)
			} // some file systems can't
		}
	}
	if r.late = !r.settled(); !r.late {
		r.makeNext()
	}
	return nil
}

// dropSpare gives back the room of the log that was kept for the new one.
func (r *room) dropSpare() {
	if r.spare != nil {
		_ = r.spare.Close()
		r.spare = nil
	}
}
