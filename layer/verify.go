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

// mismatchText says of blocks that one of two things is damaged. Which, nobody can know.
func mismatchText(l *layer, blocks [][2]int64) string {
	if len(blocks) == 1 && blocks[0][1] == blocks[0][0]+1 {
		return fmt.Sprintf("block %d of data file %s and its checksum do not match: one of them is damaged", blocks[0][0], fileName(l.id))
	}
	return fmt.Sprintf("blocks %s of data file %s and their checksums do not match: of each, one of them is damaged", rangesText(blocks), fileName(l.id))
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
		return Errorf(syscall.EIO, "%s", mismatchText(l, [][2]int64{{int64(wrong[0]), int64(wrong[0]) + 1}}))
	}
	copy(p, whole[off-from:])
	return nil
}

// mismatch returns the blocks that are not what their checksums say. errNoSums if these are lost: they are made anew then.
// The caller is in an epoch since it saw that the layer has them.
func (s *Store) mismatch(l *layer, block uint64, data []byte) (wrong []uint64, err error) {
	want, err := s.data.sums.read(l.id, block, len(data)/blockSize)
	if errors.Is(err, errNoSums) && l.summed.CompareAndSwap(true, false) {
		s.opts.Event("", "sums-lost", "layer", layerName(l.id), "error", err.Error(), "what", "they are made anew of what it holds now")
	}
	for i, sum := range want {
		b := block + uint64(i)
		if sumOf(l.id, b, data[i*blockSize:(i+1)*blockSize]) != sum {
			wrong = append(wrong, b)
		}
	}
	return wrong, err
}

// seenBy finds the files and snapshots' files that show a block of a layer, most of them at most, and says what an operator knows
// them by. It finds none where the block is about to be given up.
func (s *Store) seenBy(l *layer, block uint64, most int) (names []string) {
	var found []*layer
	err := s.index.View(func(tx *blockmap.Tx) error {
		s.tree.RLock()
		defer s.tree.RUnlock()
		return s.tree.seenLocked(tx, l, block, func(by *layer) bool {
			found = append(found, by)
			return len(found) < most
		})
	})
	if err != nil {
		return []string{layerName(l.id)}
	}
	for _, by := range found {
		names = append(names, s.nameOf(by))
	}
	return names
}

// seenLocked calls fn for each layer, l or over it, that is the newest of a state that somebody reads in which a block of l shows,
// until fn returns false.
func (t *tree) seenLocked(tx *blockmap.Tx, l *layer, block uint64, fn func(*layer) bool) error {
	below := []*layer{l}
	for len(below) > 0 {
		l, below = below[0], below[1:]
		if l.liveLocked() && !fn(l) {
			return nil
		}
		for _, child := range t.childrenLocked(l) {
			r, err := child.recordLocked(tx, block/blockmap.RegionBlocks)
			if err != nil {
				return err
			}
			covered := r.Covered()
			if !covered.Has(int(block%blockmap.RegionBlocks)) && child.cut > block {
				below = append(below, child)
			}
		}
	}
	return nil
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
