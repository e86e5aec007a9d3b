package blockmap

// This file tells which index it is that lies in a directory: by the marks of its own commits. What another file says of it, as
// the counter, is compared with that, and is what is wrong where they differ: a file from another store is no reason to touch
// what is sound.

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"
)

// ForeignError says that the counter of commits is of another index than the one that it lies beside, or that both are not the
// store's. It is an ErrDamaged, too. Nothing was touched.
type ForeignError struct {
	Path         string // of the counter; empty: the index is not the one that was asked for
	File         string // of the index, which shows it; empty: what its commits say
	Index, Other [16]byte
}

func (e *ForeignError) Error() string {
	file := cmp.Or(e.File, "it")
	if e.Path == "" {
		return file + " is not of the index that the store names"
	}
	return fmt.Sprintf("%s and %s are of different stores", file, e.Path)
}

func (e *ForeignError) Unwrap() error { return ErrDamaged }

// mark is an identity, and the file that has it.
type mark struct {
	path     string
	identity [16]byte
}

// Identity tells the index in dir by what can be read of it, however damaged it is; found is false if that is no mark. Where there
// are several, it is the preferred one; nil: none is.
func Identity(dir string, preferred *[16]byte) (identity [16]byte, found bool) {
	var names []string
	if list, err := host(nil).tablesOf(dir); err == nil {
		for id := range list {
			names = append(names, table.NewFilename(id, dir))
		}
	} else {
		names, _ = filepath.Glob(filepath.Join(dir, "*.sst"))
	}
	var s survey
	for _, name := range names {
		_ = host(nil).surveyTable(name, &s)
	}
	marks := s.marks
	if len(marks) == 0 {
		marks, _ = host(nil).logMarks(dir)
	}
	if mine := elect(marks, preferred); mine != nil {
		return *mine, true
	}
	return identity, false
}

// identify finds the identity of what was surveyed: that in its tables, which are all on one list; where there are none yet, that
// in its logs. Of several it is the preferred one.
func (s *survey) identify(h host, preferred *[16]byte) error {
	marks := s.marks
	if len(marks) == 0 {
		var err error
		if marks, err = h.logMarks(s.dir); err != nil {
			return err
		}
	}
	s.identity = elect(marks, preferred)
	for _, m := range marks {
		if m.identity == *s.identity {
			s.marked = cmp.Or(s.marked, m.path)
		}
		if m.identity != *s.identity && (len(s.marks) > 0 || preferred == nil) { // a log may be set aside, if something says so, too
			return fmt.Errorf("%w: %s is of another index than other files there", ErrDamaged, m.path)
		}
	}
	return nil
}

// verifyCounter is nil if the counter is that of the index; nil, too, where either is not known.
func (s *survey) verifyCounter(identity *[16]byte, path string) error {
	if identity != nil && s.identity != nil && *identity != *s.identity {
		return &ForeignError{Path: path, File: s.marked, Index: *s.identity, Other: *identity}
	}
	return nil
}

// verifyOwner is nil if the index and the counter are those that were asked for; nil, too, where that is not known.
func (s *survey) verifyOwner(c *counter, o Options) error {
	if o.Identity != nil && s.identity != nil && *o.Identity != *s.identity {
		return &ForeignError{File: s.marked, Index: *s.identity, Other: *o.Identity}
	}
	return s.verifyCounter(c.identity(), o.Counter)
}

// verifyAll compares what was surveyed with the counter, too; nil: there is none.
func (s *survey) verifyAll(c *counter, o Options) error {
	if err := s.verifyOwner(c, o); err != nil {
		return err
	}
	if c == nil {
		return s.verify(0)
	}
	return s.verify(c.number())
}

// elect is the one that is preferred, if it is there, or else the one that is there most often; nil if there is none.
func elect(marks []mark, preferred *[16]byte) (best *[16]byte) {
	votes := make(map[[16]byte]int)
	for _, m := range marks {
		votes[m.identity]++
	}
	if preferred != nil && votes[*preferred] > 0 {
		return preferred
	}
	for _, m := range marks {
		if best == nil || votes[m.identity] > votes[*best] {
			best = &m.identity
		}
	}
	return best
}

// logMarks are the identities in the logs in dir.
func (h host) logMarks(dir string) (marks []mark, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, memPattern))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			return nil, err
		}
		if _, ok := logNumber(path); !ok || !info.Mode().IsRegular() {
			continue
		}
		err = h.withFile(path, func(data []byte) error {
			if identity := scanLog(data).identity; identity != nil {
				marks = append(marks, mark{path, [16]byte(identity)})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return marks, nil
}

// tableMark is the identity in a table that is whole; nil if there is none in it.
func tableMark(path string) (*[16]byte, error) {
	t, err := openTable(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	defer func() { _ = t.Close(-1) }()
	it := t.NewIterator(0)
	defer it.Close()
	it.Seek(y.KeyWithTs(markKey, ^uint64(0))) // the newest one
	if !it.Valid() || !y.SameKey(it.Key(), y.KeyWithTs(markKey, 0)) || len(it.Value().Value) != markSize {
		return nil, nil
	}
	identity := [16]byte(it.Value().Value)
	return &identity, nil
}

func openTable(path string) (*table.Table, error) {
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return table.OpenTable(f, table.Options{ReadOnly: true, ChkMode: options.NoVerification, BlockSize: 4 << 10})
}
