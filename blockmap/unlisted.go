package blockmap

// This file judges tables that the list of tables does not have. A crash leaves such: one that was made and not yet put on the
// list, or that others have replaced; whatever is in it, the index has as well. Badger removes them. What is not known to be
// of that kind is somebody else's, and is not to be removed.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
)

// strays are a survey's, and the unlisted tables in which there is something that the index does not have.
func (x *Index) strays(s *survey) ([]Stray, error) {
	all := slices.Clone(s.strays)
	for _, path := range s.unlisted {
		text, foreign, err := x.judge(path)
		if err != nil {
			return nil, err
		}
		if text != "" {
			all = append(all, Stray{Name: filepath.Base(path), Text: text, Foreign: foreign})
		}
	}
	return all, nil
}

// blameList names the list of tables, where something is missing and a table is there, and whole, that it does not have.
func (s *survey) blameList(err error) error {
	if err == nil {
		return nil
	}
	for _, path := range s.unlisted {
		if host(nil).surveyTable(path, &survey{}) == nil {
			return fmt.Errorf("%w: %s does not have %s, which is there: it is cut off, an older one, or that of another index, or else files are lost: %s",
				ErrDamaged, filepath.Join(s.dir, badger.ManifestFilename), filepath.Base(path), strings.TrimPrefix(err.Error(), ErrDamaged.Error()+": "))
		}
	}
	return err
}

// judged are all strays. Where unlisted tables can't be compared with the index, as for want of room for a copy of its logs, all
// of them are strays: to keep them does no harm.
func (s *survey) judged(dir string) []Stray {
	x, err := s.open(dir)
	if err == nil {
		var all []Stray
		all, err = x.strays(s)
		if err = errors.Join(err, x.Close()); err == nil {
			return all
		}
	}
	all := slices.Clone(s.strays)
	for _, path := range s.unlisted {
		all = append(all, Stray{Name: filepath.Base(path), Text: fmt.Sprintf("is not on the list of tables, and was not looked at: %v", err)})
	}
	return all
}

// judge says what an unlisted table is; empty: nothing that the index does not have.
func (x *Index) judge(path string) (text string, foreign bool, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", false, err
	}
	if !info.Mode().IsRegular() {
		return "is no file", true, nil
	}
	blank := false
	err = host(nil).withFile(path, func(data []byte) error {
		if blank = isZero(data); blank {
			return nil
		}
		_, err := verifyTable(data)
		return err
	})
	switch {
	case blank:
		return "is not on the list of tables, and has nothing in it", false, nil
	case errors.Is(err, ErrDamaged):
		return "is not on the list of tables, and not whole: a crash leaves such while a table is written, or it is no part of the index", false, nil
	case err != nil:
		return "", false, err
	}
	t, err := openTable(path)
	var why *fs.PathError
	if errors.As(err, &why) {
		return "", false, err
	}
	if err != nil {
		return "is not on the list of tables, and cannot be read as one", true, nil
	}
	defer func() { _ = t.Close(-1) }()
	return x.compareTable(t)
}

// compareTable looks whether the index has each entry of a table, or one that replaced it.
func (x *Index) compareTable(t *table.Table) (text string, foreign bool, err error) {
	mine, err := x.mark()
	if err != nil {
		return "", false, err
	}
	txn := x.readVersion(x.committed)
	defer txn.Discard()
	it := t.NewIterator(0)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key, version, entry := y.ParseKey(it.Key()), y.ParseTs(it.Key()), it.Value()
		if bytes.Equal(key, markKey) && len(entry.Value) == markSize && mine != nil && !bytes.Equal(entry.Value[:16], mine[:16]) {
			return "is a table of another index", true, nil
		}
		has, err := hasEntry(txn, key, version, &entry)
		if err != nil {
			return "", false, err
		}
		if !has {
			return "is not on the list of tables, and has what the index does not have", false, nil
		}
	}
	return "", false, nil
}

// hasEntry says whether an index has that version of a key, or a later one.
func hasEntry(txn *badger.Txn, key []byte, version uint64, entry *y.ValueStruct) (bool, error) {
	const deleted = 1 // of Badger's meta
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return entry.Meta&deleted != 0 || goneLater(txn, key, version), nil
	}
	if err != nil {
		return false, err
	}
	if item.Version() != version {
		return item.Version() > version, nil
	}
	same := false
	err = item.Value(func(value []byte) error {
		same = bytes.Equal(value, entry.Value)
		return nil
	})
	return same, err
}

// goneLater says whether a key was deleted after a version.
func goneLater(txn *badger.Txn, key []byte, version uint64) bool {
	it := txn.NewKeyIterator(key, badger.IteratorOptions{AllVersions: true})
	defer it.Close()
	it.Rewind()
	return it.Valid() && it.Item().Version() > version
}
