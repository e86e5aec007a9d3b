package layer

// Taking a new store away again, for a mount that did not come about: the directory is to be as it was.

import (
	"errors"
	"os"
	"path/filepath"
)

// Unmake closes a store, and takes away what Open made of an empty directory, that directory too if it made it. It does nothing
// else to a store that was there before, or in which there is something.
func (s *Store) Unmake() error {
	unused := s.made && len(s.VMs()) == 0
	err := s.Close()
	if err != nil || !unused {
		return err
	}
	lock, err := lockStore(s.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	names := []string{layersName, sumsName, ballastName, commitsName, journalName, "events", "log", formatName, lockName}
	err = os.RemoveAll(filepath.Join(s.dir, indexName))
	for _, name := range names {
		if gone := os.Remove(filepath.Join(s.dir, name)); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	if s.madeDir && err == nil {
		err = os.Remove(s.dir)
	}
	return err
}
