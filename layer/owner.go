package layer

// Whose is the index, whose is the counter of commits, whose is FORMAT? Any of them may be that of another store: by a copy that went
// wrong, a file restored into the wrong directory. Each has the identity of the store's index, and so have the backups. Where two of
// them differ the backups decide; without any, what FORMAT and one of the others agree on; and for a store whose FORMAT has no
// identity yet, whether the index and the data files fit. Two that agree against FORMAT are not believed: both may have come from
// one other store.

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
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
	foreignFormat  bool      // FORMAT is
	unknown        bool      // one of them is
}

// ownerOf finds out. Only where they differ the backups are read.
func ownerOf(dir string) (w owner, err error) {
	theirs, _, counted, err := blockmap.ReadCounter(filepath.Join(dir, commitsName))
	if err != nil {
		return w, err
	}
	counter := &theirs
	if !counted {
		counter = nil
	}
	named := formatIdentity(dir)
	index, found := identityPreferred(dir, cmp.Or(named, counter))
	w.counted = counted
	if w.identity = cmp.Or(index, counter, named); agree(index, counter, named) && (found || !counted) {
		return w, nil
	}
	votes, err := identitiesOfBackups(dir)
	if err != nil {
		return w, err
	}
	w.identity = judge(dir, votes, index, counter, named)
	w.unknown = w.identity == nil
	foreign := func(other *[16]byte) bool { return other != nil && w.identity != nil && *other != *w.identity }
	w.foreignIndex, w.foreignCounter, w.foreignFormat = foreign(index), foreign(counter), foreign(named)
	return w, nil
}

// identityPreferred is blockmap.Identity of a store's index.
func identityPreferred(dir string, preferred *[16]byte) (*[16]byte, bool) {
	identity, found := blockmap.Identity(filepath.Join(dir, indexName), preferred)
	if !found {
		return nil, false
	}
	return &identity, true
}

// agree says whether those that are known are the same.
func agree(identities ...*[16]byte) bool {
	var first *[16]byte
	for _, i := range identities {
		if first = cmp.Or(first, i); i != nil && *i != *first {
			return false
		}
	}
	return true
}

// judge says which identity is the store's, of those that differ; nil: nothing tells.
func judge(dir string, votes map[[16]byte]int, index, counter, named *[16]byte) (best *[16]byte) {
	for _, i := range []*[16]byte{index, counter, named} {
		if i != nil && votes[*i] > 0 && (best == nil || votes[*i] > votes[*best]) {
			best = i
		}
	}
	switch {
	case best != nil:
		return best
	case index == nil && len(votes) == 1: // of what can be restored, all is one store's
		for identity := range votes {
			return &identity
		}
	case index == nil:
		return cmp.Or(named, counter)
	case named != nil && *named == *index:
		return index
	case named != nil && counter != nil && *named == *counter:
		return counter
	case named == nil && fits(dir):
		return index
	}
	return nil
}

// formatIdentity is that of the store's index as FORMAT has it; nil if it has none, or can't be read.
func formatIdentity(dir string) *[16]byte {
	f, err := readFormatFile(dir)
	id, hexErr := hex.DecodeString(f.Index)
	if err != nil || hexErr != nil || len(id) != 16 {
		return nil
	}
	return (*[16]byte)(id)
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
	err := readIndexBy(dir, "", nil, func(o *offline) error {
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

// foreignFile is what is foreign beside an index that is not.
func (w owner) foreignFile() string {
	if w.foreignCounter {
		return commitsName
	}
	return formatName
}

// foreignText says which are.
func (w owner) foreignText() string {
	if w.foreignCounter && w.foreignFormat {
		return fmt.Sprintf("%s and %s are those of another store", commitsName, formatName)
	}
	return w.foreignFile() + " is that of another store"
}

// counter is the path of the counter that goes with the index; empty if there is none.
func (w owner) counter(dir string) string {
	if w.foreignCounter {
		return ""
	}
	return filepath.Join(dir, commitsName)
}

// ownerOfDamage is ownerOf where that is what is wrong with an index, and that itself is the store's.
func ownerOfDamage(dir string, err error) (w owner, own bool) {
	if !errors.As(err, new(*blockmap.ForeignError)) {
		return w, false
	}
	w, err = ownerOf(dir)
	return w, err == nil && !w.unknown && !w.foreignIndex && (w.foreignCounter || w.foreignFormat)
}
