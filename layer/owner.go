package layer

// Whose is the index, whose is the counter of commits? One of them may be that of another store: by a copy that went wrong, a file
// restored into the wrong directory. The index has its identity in itself, the counter and the backups have it, too; where the
// index and the counter differ, the backups decide, and where there are none, whether the index and the data files fit.

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/snapfs/snapfs/blockmap"
)

// owner is what is known of that.
type owner struct {
	identity       *[16]byte // of the store's index; nil if it is not known
	counted        bool      // there is a counter of commits that can be read
	foreignCounter bool      // and it is that of another store
	foreignIndex   bool      // the index is
	unknown        bool      // one of them is
}

// ownerOf finds out. Only where they differ the backups are read.
func ownerOf(dir string) (w owner, err error) {
	theirs, _, counted, err := blockmap.ReadCounter(filepath.Join(dir, commitsName))
	if err != nil {
		return w, err
	}
	prefer := &theirs
	if !counted {
		prefer = nil
	}
	mine, found := blockmap.Identity(filepath.Join(dir, indexName), prefer)
	w.counted = counted
	switch {
	case !found && !counted:
		return w, nil
	case !counted, found && mine == theirs:
		w.identity = &mine
		return w, nil
	}
	votes, err := identitiesOfBackups(dir)
	if err != nil {
		return w, err
	}
	w.identity = &theirs
	switch {
	case !found: // nothing of the index can be read
		if len(votes) == 1 && votes[theirs] == 0 {
			for identity := range votes {
				w.identity, w.foreignCounter = &identity, true
			}
		}
	case votes[theirs] > votes[mine]:
		w.foreignIndex = true
	case votes[mine] > 0, fits(dir):
		w.identity, w.foreignCounter = &mine, true
	default:
		w.identity, w.unknown = nil, true
	}
	return w, nil
}

// identitiesOfBackups says how many sound backups there are of each index.
func identitiesOfBackups(dir string) (map[[16]byte]int, error) {
	backups, err := listBackups(dir)
	if err != nil {
		return nil, err
	}
	votes := make(map[[16]byte]int)
	for _, b := range backups {
		if info, err := blockmap.VerifyBackup(b.path); err == nil {
			votes[info.Identity]++
		}
	}
	return votes, nil
}

// fits says whether an index is sound, and the data files and the journal are what it says.
func fits(dir string) (fits bool) {
	err := readIndexBy(dir, "", func(o *offline) error {
		strays, err := o.strays(layersName)
		if err != nil || len(strays) > 0 || o.tree == nil {
			return err
		}
		for id, l := range o.catalog.layers {
			if _, err := os.Lstat(o.path(layersName, id)); err != nil && (l.HasFile || l.Blocks > 0) {
				return err
			}
		}
		_, err = o.journal()
		fits = err == nil
		return err
	})
	return fits && err == nil
}

// counter is the path of the counter that goes with the index; empty if there is none.
func (w owner) counter(dir string) string {
	if w.foreignCounter {
		return ""
	}
	return filepath.Join(dir, commitsName)
}

// hasForeignCounter says whether that is what is wrong.
func hasForeignCounter(dir string, err error) bool {
	var foreign *blockmap.ForeignError
	if !errors.As(err, &foreign) {
		return false
	}
	w, err := ownerOf(dir)
	return err == nil && w.foreignCounter
}
