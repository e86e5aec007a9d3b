package layer

// Opening a store that nobody has mounted: to look into it, which writes nothing but the lock's file, or to set something right.

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// lookInto opens a store for fn, which changes nothing. What is wrong with its index is an indexDamage.
func lookInto(dir string, fn func(*offline) error) error {
	lock, err := lockSound(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := verifyParts(dir); err != nil {
		return err
	}
	return readIndex(dir, fn)
}

// withOffline opens a store for fn, which may change it. What is nothing of the index's goes into quarantine, which is noted in
// done.
func withOffline(dir string, q *quarantine, done *[]Finding, fn func(*offline) error) error {
	lock, err := lockSound(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := refuseAway(dir); err != nil {
		return err
	}
	if err := q.noteWrong(done); err != nil {
		return err
	}
	if isDirectory(filepath.Join(dir, indexName)) { // or it may be a store that was not made to the end
		if err := makeLayers(dir, q, done); err != nil {
			return err
		}
	}
	if err := makeParts(dir); err != nil {
		return err
	}
	return withIndex(dir, q, done, fn)
}

// lockSound locks what is a store of this version.
func lockSound(dir string) (lock *os.File, err error) {
	if err := findStore(dir); err != nil {
		return nil, err
	}
	lock, err = lockStore(dir)
	if err != nil {
		return nil, err
	}
	if _, err := readFormat(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// readIndex is lookInto in a store that is locked.
func readIndex(dir string, fn func(*offline) error) error {
	return readIndexBy(dir, filepath.Join(dir, commitsName), formatIdentity(dir), fn)
}

// readIndexBy is readIndex with the counter of that path, and for an index of that identity; empty, nil: whatever it is.
func readIndexBy(dir, counter string, identity *[16]byte, fn func(*offline) error) error {
	index, foreign, err := blockmap.OpenToRead(filepath.Join(dir, indexName), blockmap.Options{Counter: counter, Identity: identity})
	if errors.Is(err, syscall.ENOSPC) {
		return Errorf(syscall.ENOSPC, "look into the index of store %s: there is no room for a copy of its logs, about 64 MiB; TMPDIR may name another directory: %w", dir, err)
	}
	if err != nil {
		return indexDamage{err}
	}
	return (&offline{dir: dir, index: index, foreign: foreign}).run(fn)
}

// withIndex is withOffline in a store that is locked.
func withIndex(dir string, q *quarantine, done *[]Finding, fn func(*offline) error) error {
	space, err := newSpace(dir, Reserve{}, func(string, string, ...any) {})
	if err != nil {
		return err
	}
	defer space.ballast.close()
	index, err := blockmap.Open(filepath.Join(dir, indexName), blockmap.Options{
		Room: space.room, Counter: filepath.Join(dir, commitsName), Identity: formatIdentity(dir),
		Aside: q.takeIndexStray(done),
	})
	if errors.Is(err, blockmap.ErrFull) {
		return indexError(err, "open the index of store "+dir)
	}
	if err != nil {
		return indexDamage{err}
	}
	return (&offline{dir: dir, index: index}).run(fn)
}

// run reads the catalog and calls fn. Without a tree there is something to check, still.
func (o *offline) run(fn func(*offline) error) error {
	if err := o.read(); o.catalog == nil {
		return errors.Join(indexDamage{err}, o.index.Close())
	}
	return errors.Join(fn(o), o.index.Close())
}
