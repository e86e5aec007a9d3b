package layer

// Data files of heads that end before what the index has in them: they were cut off. To read there is EIO, but once something
// is written behind, by a guest or from the journal, the gap would read as zeros. So a cold start refuses them, by name; a
// repair notes what is lost, and gives the file a head of its own again. Layers that are sealed are never written to.

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// refuseShort looks at all heads. A worker that takes over has guests that wait, and the files that the one before it had.
func (s *Store) refuseShort(c *catalog) error {
	if s.resumes {
		return nil
	}
	for _, f := range c.files {
		l := s.tree.layer(f.Head)
		if l == nil || l.lost != nil {
			continue
		}
		info, err := os.Lstat(filepath.Join(s.data.dir, fileName(l.id)))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // nothing is written to it either
		}
		if err != nil {
			return Errorf(syscall.EIO, "look at data file %s: %w", fileName(l.id), err)
		}
		short, err := s.endsBefore(l, info.Size())
		if err != nil {
			return Errorf(syscall.EIO, "read the index of store %s: %w", s.dir, err)
		}
		if short {
			return Errorf(syscall.EIO, "%s ends at %d, before data of file %q of VM %q that it should hold; `snapfs check %s --repair` notes what is lost, and all else can be used",
				layerName(l.id), info.Size(), f.Name, c.vms[f.VM].Name, s.dir)
		}
	}
	return nil
}

// endsBefore says whether the index has data of a layer from a byte of its data file on.
func (s *Store) endsBefore(l *layer, size int64) (short bool, err error) {
	first := uint64(size) / blockmap.RegionSize
	err = s.index.View(func(tx *blockmap.Tx) error {
		return tx.ScanFrom(catalogKey(tableTouched, l.id), regionKey(tableTouched, l.id, first), func(key, _ []byte) error {
			region, err := keyID(key, 1)
			if err != nil || short {
				return err
			}
			s.tree.RLock()
			r, err := l.recordLocked(tx, region)
			s.tree.RUnlock()
			if err != nil {
				return err
			}
			cutOff(&r, region, l.void)
			if region == first {
				r.Data.ClearRange(0, int(uint64(size)%blockmap.RegionSize/blockSize))
			}
			short = !r.Data.Empty()
			return nil
		})
	})
	return short, err
}
