package layer

// Mending memory images: a snapshot whose image is gone is one without memory.

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapfs/snapfs/blockmap"
)

// lostMemory is the warning of a snapshot whose image is gone.
const lostMemory = "the machine's memory is lost"

func (m *mender) mendImages() error {
	at := &images{dir: filepath.Join(m.dir, imagesName)}
	for id, n := range m.catalog.snapshots {
		if n.Memory == 0 {
			continue
		}
		r, known := m.catalog.images[n.Memory]
		why := errImageMissing
		if known {
			why = at.checkFile(n.Memory, r)
		}
		if why == nil {
			continue
		}
		object := m.catalog.vms[n.VM].Name + "@" + n.Name
		if packed := (imageRecord{Bytes: r.Bytes, Packed: true}); known && !r.Packed && at.checkFile(n.Memory, packed) == nil {
			m.did(object, "its memory is there packed")
			err := m.putImage(n.Memory, packed)
			if err != nil {
				return err
			}
			continue
		}
		m.did(object, "%s: it is a snapshot without memory from now on", lostMemory)
		m.lost = append(m.lost, Finding{Object: object, Text: fmt.Sprintf("%s, %s: %v", lostMemory, imageName(n.Memory, r), why)})
		err := commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			tx.Delete(catalogKey(tableImage, n.Memory))
			return edit(tx, catalogKey(tableSnapshot, id), func(r *snapshotRecord) {
				r.Memory = 0
				r.addWarning(lostMemory)
			})
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *mender) putImage(id imageID, r imageRecord) error {
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableImage, id), r)
		return nil
	}))
}

// imageThere says whether an image has a file, packed or not.
func (o *offline) imageThere(id imageID) bool {
	at := &images{dir: filepath.Join(o.dir, imagesName)}
	for _, packed := range []bool{false, true} {
		if _, err := os.Lstat(at.path(id, packed)); err == nil {
			return true
		}
	}
	return false
}
