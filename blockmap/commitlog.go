package blockmap

// This file syncs what was committed. Badger, told to sync, syncs two files for each commit: the log of the memtable, where
// the commit is, and its value log, where nothing ever is; and for the disk's cache a sync of nothing is one like any other.
// So Badger is told not to, and its log is synced here.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// commitLog is the log of the memtable that commits go to. They do one after the other, so when Badger has gone on to the
// next log, all that is in those before it has been synced.
type commitLog struct {
	dir  string
	id   int
	file *os.File
}

func logName(dir string, id int) string { return filepath.Join(dir, fmt.Sprintf("%05d.mem", id)) }

// openCommitLog opens the newest log of an open database.
func openCommitLog(dir string) (*commitLog, error) {
	names, err := filepath.Glob(filepath.Join(dir, memPattern))
	if err != nil {
		return nil, err
	}
	l := &commitLog{dir: dir, id: -1}
	for _, name := range names {
		var id int
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.mem", &id); err == nil && id > l.id && begun(name) {
			l.id = id
		}
	}
	if l.id < 0 {
		return nil, fmt.Errorf("no log of a memtable in %s", dir)
	}
	return l, l.open()
}

// begun says whether Badger uses a log: one that is made ahead has no size yet.
func begun(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil && st.Size > 0
}

// open opens the log, with its name durable.
func (l *commitLog) open() (err error) {
	if l.file, err = os.OpenFile(logName(l.dir, l.id), os.O_RDWR, 0); err != nil {
		return err
	}
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// sync makes what was committed durable.
func (l *commitLog) sync() error {
	for begun(logName(l.dir, l.id+1)) {
		if err := l.file.Close(); err != nil {
			return err
		}
		l.id++
		if err := l.open(); err != nil {
			return err
		}
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", l.file.Name(), err)
	}
	return nil
}

func (l *commitLog) close() error { return l.file.Close() }
