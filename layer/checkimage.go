package layer

// Checking memory images: is each there, whole, and somebody's?

import (
	"errors"
	"os"
	"path/filepath"
)

func (k *check) checkImages() error {
	m := &images{dir: filepath.Join(k.dir, imagesName)}
	for _, n := range k.catalog.snapshots {
		if n.Memory == 0 {
			continue
		}
		object := k.catalog.vms[n.VM].Name + "@" + n.Name
		r, ok := k.catalog.images[n.Memory]
		if !ok {
			k.found(object, "has memory image %d, which is missing", n.Memory)
			continue
		}
		if err := m.checkFile(n.Memory, r); err != nil {
			k.found(object, "has lost the machine's memory: %v", err)
		}
	}
	return nil
}

// checkFile looks at the file of an image, not at all its data.
func (m *images) checkFile(id imageID, r imageRecord) error {
	path := m.path(id, r.Packed)
	if r.Packed {
		p, err := openPacked(path, r.Bytes)
		if err != nil {
			return err
		}
		return p.Close()
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() != r.Bytes {
		return errors.New("its file is not of the size that was saved")
	}
	return err
}
