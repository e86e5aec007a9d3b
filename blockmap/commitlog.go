package blockmap

// This file syncs what was committed. Badger, told to sync, syncs two files for each commit: the log of the memtable, where
// the commit is, and its value log, where nothing ever is; and for the disk's cache a sync of nothing is one like any other.
// So Badger is told not to, and its log is synced here.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// commitLog is the log of the memtable that commits go to. They do one after the other, so when Badger has gone on to the
// next log, all that is in those before it has been synced.
type commitLog struct {
	host host
	dir  string
	id   int
	file *os.File
}

func logName(dir string, id int) string { return filepath.Join(dir, fmt.Sprintf("%05d.mem", id)) }

// openCommitLog opens the newest log of an open database.
func (h host) openCommitLog(dir string) (*commitLog, error) {
	names, err := filepath.Glob(filepath.Join(dir, memPattern))
	if err != nil {
		return nil, err
	}
	l := &commitLog{host: h, dir: dir, id: -1}
	for _, name := range names {
		var id int
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.mem", &id); err != nil || id < l.id {
			continue
		}
		if used, err := h.begun(name); err != nil {
			return nil, err
		} else if used {
			l.id = id
		}
	}
	if l.id < 0 {
		return nil, fmt.Errorf("no log of a memtable in %s", dir)
	}
	if err := l.open(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// begun says whether Badger uses a log: one that is made ahead has no size yet. Not to know is an error: a commit may be there.
func (h host) begun(name string) (bool, error) {
	info, err := h.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size() > 0, err
}

// open opens the log, with its name durable.
func (l *commitLog) open() (err error) {
	if l.file, err = l.host.open(logName(l.dir, l.id), os.O_RDWR); err != nil {
		return err
	}
	return l.host.syncDir(l.dir)
}

// sync makes what was committed durable.
func (l *commitLog) sync() error {
	for {
		used, err := l.host.begun(logName(l.dir, l.id+1))
		if err != nil {
			return err
		}
		if !used {
			break
		}
		if err := l.file.Close(); err != nil {
			return err
		}
		l.id++
		if err := l.open(); err != nil {
			return err
		}
	}
	if err := l.host.dataSync(l.file); err != nil {
		return fmt.Errorf("sync %s: %w", l.file.Name(), err)
	}
	return nil
}

// close closes the log, if there is one open: after an error there may be none.
func (l *commitLog) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
