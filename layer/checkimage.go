package layer

// Checking memory images: is each there, whole, and somebody's?

import (
	"errors"
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
			k.found(object, "has lost the machine's memory: the index has nothing of image %s", fileName(LayerID(n.Memory)))
			continue
		}
		if err := m.checkFile(n.Memory, r); err != nil {
			k.found(object, "has lost the machine's memory, %s: %v", imageName(n.Memory, r), err)
		}
	}
	return nil
}

// checkFile looks at the file of an image, not at all its data, and says what a scrub found that did.
func (m *images) checkFile(id imageID, r imageRecord) error {
	if r.Damaged != "" {
		return errors.New(r.Damaged)
	}
	source, err := m.open(id, r)
	if err != nil {
		return err
	}
	return source.Close()
}

// imageName is an image's path in the store.
func imageName(id imageID, r imageRecord) string {
	return (&images{dir: imagesName}).path(id, r.Packed)
}
