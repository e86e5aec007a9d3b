package layer

// Data files of heads that end before what the index has in them: they were cut off. To read there is EIO, but once something
// is written behind, by a guest or from the journal, the gap would read as zeros. So a cold start refuses them, by name; a
// repair notes what is lost, and gives the file a head of its own again. Layers that are sealed are never written to. One that is
// missing is refused only if the journal has something for it: to write there is an error, too, and strikes nobody else.

import (
	"errors"
	"fmt"
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
			return Errorf(syscall.EIO, "%s ends at %d, before data of file %q of VM %q that it should hold%s",
				layerName(l.id), info.Size(), f.Name, c.vms[f.VM].Name, notesLost(s.dir))
		}
	}
	return nil
}

// notesLost is how an error goes on that a repair does away with.
func notesLost(dir string) string {
	return fmt.Sprintf("; `snapfs check %s --repair` notes what is lost, and all else can be used", dir)
}

// notWrittenBack is the error for a head to which what the journal has for it can't be written.
func (f *File) notWrittenBack(head *layer, err error) error {
	remedy := ""
	if errors.Is(err, fs.ErrNotExist) {
		remedy = notesLost(f.vm.store.dir)
	}
	return Errorf(Errno(err), "write what a guest had flushed to file %q of VM %q back to %s: %w%s", f.Name(), f.vm.Name(), layerName(head.id), err, remedy)
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
