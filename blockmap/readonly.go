package blockmap

// This file opens an index for reading only. Badger's own way to do that refuses a log that was not closed, and removes what
// its list of tables does not have; so it gets a directory of its own: a copy of the list, links to the tables, and copies of
// the logs that end with their last commit.

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// ErrReadOnly says that an index is open for reading only.
var ErrReadOnly = errors.New("index is open for reading only")

// OpenToRead opens an index for Views. In dir nothing is changed: what it takes besides, a copy of the logs, is in the system's
// directory for temporary files until the index is closed. Of o, only Counter and Identity are used. Its strays are files in dir that are no
// part of the index.
func OpenToRead(dir string, o Options) (*Index, []Stray, error) {
	s, c, err := surveyOf(dir, o)
	if err == nil {
		err = s.verifyAll(c, o)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open index: %w", err)
	}
	x, err := s.open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open index: %w", err)
	}
	mark, err := x.mark()
	switch {
	case err != nil:
	case o.Counter == "" || c == nil && mark == nil: // none is kept, or it is new
	case c == nil:
		err = noCounter(o.Counter)
	default:
		err = c.verifyMark(mark, o.Counter)
	}
	var strays []Stray
	if err == nil {
		strays, err = x.strays(s)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open index: %w", err), x.Close())
	}
	return x, strays, nil
}

// surveyOf surveys the index in dir. The counter is only what it says, nil if there is none.
func surveyOf(dir string, o Options) (*survey, *counter, error) {
	var c *counter
	if o.Counter != "" {
		identity, number, found, err := ReadCounter(o.Counter)
		if err != nil {
			return nil, nil, err
		}
		if found {
			c = &counter{}
			copy(c.mark[:], identity[:])
			copy(c.mark[:], c.markOf(number))
		}
	}
	s, err := host(nil).survey(dir, cmp.Or(o.Identity, c.identity()))
	return s, c, err
}

// open opens what a survey has found sound, for reading.
func (s *survey) open(dir string) (_ *Index, err error) {
	private, err := os.MkdirTemp("", "snapfs-index-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(private)
		}
	}()
	b := badgerOptions(private).WithReadOnly(true)
	if s.tables == nil {
		b = b.WithReadOnly(false) // there is nothing yet: it makes an empty one
	} else if err := s.copyTo(private, dir); err != nil {
		return nil, err
	}
	db, err := badger.OpenManaged(b)
	if err != nil {
		return nil, err
	}
	if b.ReadOnly {
		// All of it is open: whoever is killed from here on leaves no more than an empty directory.
		if err := emptied(private); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	x := &Index{db: db, private: private, room: &room{dir: private}, reading: make(map[uint64]int), writerDone: make(chan struct{})}
	close(x.writerDone)
	x.wake.L = &x.mu
	x.publish(db.MaxVersion())
	return x, nil
}

// emptied removes the files in a directory.
func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
	}
	return err
}

// copyTo makes what Badger opens. A log has no more than a header of zeros, which is right for all, and its commits.
func (s *survey) copyTo(private, dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(private, badger.ManifestFilename), list, 0o600); err != nil {
		return err
	}
	for id := range s.tables {
		path, err := filepath.Abs(table.NewFilename(id, dir))
		if err == nil {
			err = os.Symlink(path, table.NewFilename(id, private))
		}
		if err != nil {
			return err
		}
	}
	for i, l := range s.logs {
		err := host(nil).withFile(l.name, func(data []byte) error {
			f, err := os.OpenFile(logName(private, i+1), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.Write(make([]byte, logHeader))
			if err == nil {
				_, err = f.Write(data[logHeader:l.end])
			}
			return errors.Join(err, f.Close())
		})
		if err != nil {
			return fmt.Errorf("copy %s to %s: %w", l.name, private, err)
		}
	}
	return nil
}

// closePrivate closes one that is open for reading.
func (x *Index) closePrivate() error {
	return errors.Join(x.db.Close(), os.RemoveAll(x.private))
}
