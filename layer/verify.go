package layer

// Verifying: is what a data file has what its checksums say?

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// errNoSums says that the checksums of a layer that had them are gone.
var errNoSums = errors.New("its checksums are lost")

// mismatchText says of a block that one of two things is damaged. Which, nobody can know.
func mismatchText(l *layer, block uint64) string {
	return fmt.Sprintf("block %d of data file %s and its checksum do not match: one of them is damaged", block, fileName(l.id))
}

// readVerified reads a run from a layer that has checksums, and returns EIO rather than what is not what was written.
func (s *Store) readVerified(fd int, l *layer, p []byte, off int64) error {
	from, to := off&^(blockSize-1), (off+int64(len(p))+blockSize-1)&^(blockSize-1)
	whole := p
	if int64(len(p)) != to-from {
		whole = make([]byte, to-from)
	}
	if err := readBlocks(fd, l, whole, from); err != nil {
		return err
	}
	wrong, err := s.mismatch(l, uint64(from)/blockSize, whole)
	switch {
	case errors.Is(err, errNoSums): // nothing says that the data is wrong
	case err != nil:
		return err
	case len(wrong) > 0:
		return Errorf(syscall.EIO, "%s", mismatchText(l, wrong[0]))
	}
	copy(p, whole[off-from:])
	return nil
}

// mismatch returns the blocks that are not what their checksums say. errNoSums if these are lost: they are made anew then.
// The caller is in an epoch since it saw that the layer has them.
func (s *Store) mismatch(l *layer, block uint64, data []byte) (wrong []uint64, err error) {
	want, err := s.data.sums.read(l.id, block, len(data)/blockSize)
	if errors.Is(err, errNoSums) && l.summed.CompareAndSwap(true, false) {
		s.opts.Event("", "sums-lost", "layer", uint64(l.id), "error", err.Error(), "what", "they are made anew of what it holds now")
	}
	for i, sum := range want {
		b := block + uint64(i)
		if sumOf(l.id, b, data[i*blockSize:(i+1)*blockSize]) != sum {
			wrong = append(wrong, b)
		}
	}
	return wrong, err
}

// seenBy finds a file or a snapshot's file that shows a block of a layer, and says what an operator knows it by. seen is
// false if none does, and the block is about to be given up.
func (s *Store) seenBy(l *layer, block uint64) (name string, seen bool) {
	found := l
	err := s.index.View(func(tx *blockmap.Tx) (err error) {
		s.tree.RLock()
		defer s.tree.RUnlock()
		if !l.liveLocked() {
			found, err = s.tree.seenLocked(tx, l, block)
		}
		return err
	})
	if err != nil {
		return layerName(l.id), true
	}
	if found == nil {
		return "", false
	}
	return s.nameOf(found), true
}

// seenLocked is a layer over l, the newest of a state that somebody reads, in which a block of l shows; or nil.
func (t *tree) seenLocked(tx *blockmap.Tx, l *layer, block uint64) (*layer, error) {
	region, at := block/blockmap.RegionBlocks, int(block%blockmap.RegionBlocks)
	for _, child := range t.childrenLocked(l) {
		r, err := child.recordLocked(tx, region)
		if err != nil {
			return nil, err
		}
		covered := r.Covered()
		switch {
		case covered.Has(at) || child.cut <= block:
			continue
		case child.liveLocked():
			return child, nil
		}
		if found, err := t.seenLocked(tx, child, block); found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}

// nameOf says what an operator knows a layer by.
func (s *Store) nameOf(l *layer) string {
	s.tree.RLock()
	n, f := l.snap, l.owner
	s.tree.RUnlock()
	if f != nil {
		return f.vm.Name() + "/" + f.Name()
	}
	if n != nil {
		for _, e := range n.snapshotRecord.Files {
			if e.Layer == l.id {
				return n.vm.Name() + "@" + n.Name() + "/" + e.Name
			}
		}
	}
	return layerName(l.id)
}
