package layer

// Checksums: of each block that a sealed layer holds, made in the background, for what a sealed layer shows never
// changes. Heads have none. Retired layers have: somebody still reads what is left of them.
//
//	sums/ID    block b's checksum at offset b × 4, little endian: crc32c of the layer's id and b, 8 bytes each, little
//	           endian, and the block
//
//	commit that the layer has none, if it had some    crash: the start makes them
//	write the checksums, sync the file, sync sums/    crash: the same
//	commit that the layer has them                    crash: it has them

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	sumsName  = "sums"
	sumSize   = 4
	sumsAtOne = 256 // blocks read together
)

// sumsEvery is how often to look for layers that were sealed; tests don't have that long.
var sumsEvery = 5 * time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf is a block's checksum. It says where the block belongs, so that a file in another's place is found, too.
func sumOf(id LayerID, block uint64, p []byte) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], uint64(id))
	binary.LittleEndian.PutUint64(place[8:], block)
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, p)
}

// sums is the directory of the layers' checksums.
type sums struct{ dir string }

func openSums(store string) (*sums, error) {
	s := &sums{dir: filepath.Join(store, sumsName)}
	if err := mkdir(s.dir, os.MkdirAll); err != nil {
		return nil, Errorf(syscall.EIO, "make %s: %w", s.dir, err)
	}
	return s, nil
}

func (s *sums) path(id LayerID) string { return filepath.Join(s.dir, fileName(id)) }

// remove removes a layer's; that there are none is fine.
func (s *sums) remove(id LayerID) error {
	if err := removeFile(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// read returns the checksums of n blocks of a layer from one on. errNoSums if they are not there.
func (s *sums) read(id LayerID, block uint64, n int) ([]uint32, error) {
	p := make([]byte, n*sumSize)
	f, err := openFile(s.path(id), os.O_RDONLY|unix.O_NOATIME|unix.O_NOFOLLOW)
	if err == nil {
		err = readAt(f, p, int64(block)*sumSize)
		_ = f.Close()
	}
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, io.EOF), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ESPIPE):
		return nil, fmt.Errorf("%w: %w", errNoSums, err)
	case err != nil:
		return nil, Errorf(syscall.EIO, "the checksums of data file %s can't be read: %w", fileName(id), err)
	}
	found := make([]uint32, n)
	for i := range found {
		found[i] = binary.LittleEndian.Uint32(p[i*sumSize:])
	}
	return found, nil
}

// keepSums makes checksums of what has been sealed, one layer after another, until the store is closed.
func (s *Store) keepSums() {
	failed := make(map[*layer]bool)
	tick := time.NewTicker(sumsEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if first {
			s.dropStraySums()
		}
		for _, l := range s.layersToSum() {
			if failed[l] {
				continue // until the next start
			}
			if err := s.sumLayer(l); err != nil && !errors.Is(err, errStopped) {
				failed[l] = true
				s.opts.Event("", "sum-failed", "layer", layerName(l.id), "error", err.Error())
			}
		}
	}
}

// dropStraySums removes the checksums of layers that are gone, and such as were never finished.
func (s *Store) dropStraySums() {
	entries, err := readDir(s.data.sums.dir)
	if err != nil {
		s.opts.Event("", "sum-failed", "error", err.Error())
	}
	for _, entry := range entries {
		id, err := strconv.ParseUint(entry.Name(), 16, 64)
		if err != nil {
			continue
		}
		l := s.tree.layer(LayerID(id))
		if l != nil && l.summed.Load() || l == nil && id >= s.next.Load() { // the latter was never one of this store's: check notes it
			continue
		}
		file := filepath.Join(sumsName, entry.Name())
		switch err := s.data.sums.remove(LayerID(id)); {
		case err != nil:
			s.opts.Event("", "sum-failed", "file", file, "error", err.Error())
		case l == nil:
			s.opts.Event("", "sums-removed", "file", file, "what", "checksums of a layer that is gone")
		}
	}
}

// sealedLayers are those that nobody writes any more and that hold something, retired ones too, in order.
func (s *Store) sealedLayers(summed bool) (found []*layer) {
	s.tree.RLock()
	defer s.tree.RUnlock()
	for _, n := range s.tree.lineages {
		for _, l := range n.layers {
			if l.owner == nil && l.writer() == nil && l.blocks.Load() > 0 && l.summed.Load() == summed {
				found = append(found, l)
			}
		}
	}
	slices.SortFunc(found, func(a, b *layer) int { return cmp.Compare(a.id, b.id) })
	return found
}

func (s *Store) layersToSum() []*layer { return s.sealedLayers(false) }

// sumLayer makes the checksums of a layer. It rests as long as it works, so that guests have the disk.
func (s *Store) sumLayer(l *layer) error {
	s.epochs.wait() // for those who take older ones, which were lost, for whole
	if _, err := s.markSummed(l, false); err != nil {
		return err
	}
	err := s.writeSums(l)
	there := false
	if err == nil {
		there, err = s.markSummed(l, true)
	}
	switch {
	case errors.Is(err, blockmap.ErrFailed):
		return err // nobody knows whether the layer has them
	case errors.Is(err, errGone):
		err = nil
	}
	if err != nil || !there {
		return errors.Join(err, s.data.sums.remove(l.id))
	}
	l.summed.Store(true)
	return nil
}

func (s *Store) writeSums(l *layer) error {
	f, err := openFile(s.data.sums.path(l.id), os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer f.Close()
	err = s.eachBlock(l, func(block uint64, data []byte) error {
		p := make([]byte, 0, sumsAtOne*sumSize)
		for i := 0; i < len(data); i += blockSize {
			p = binary.LittleEndian.AppendUint32(p, sumOf(l.id, block+uint64(i/blockSize), data[i:i+blockSize]))
		}
		return writeAt(f, p, int64(block)*sumSize)
	})
	if err != nil {
		return err
	}
	return errors.Join(syncFile(f), syncDirectory(s.data.sums.dir))
}

// markSummed commits whether a layer has checksums, unless the catalog says so already, and says whether it is still there.
func (s *Store) markSummed(l *layer, summed bool) (there bool, err error) {
	key := catalogKey(tableLayer, l.id)
	marked := false
	err = s.index.View(func(tx *blockmap.Tx) error {
		value, err := tx.Get(key)
		if there = value != nil; err != nil || !there {
			return err
		}
		r, err := decode[layerRecord](key, value)
		marked = r.Summed
		return err
	})
	if err != nil || !there || marked == summed {
		return there, err
	}
	there = false
	err = s.update(func(tx *blockmap.Tx) error {
		return editIfThere(tx, key, func(r *layerRecord) { r.Summed, there = summed, true })
	})
	return there, err
}

// errStopped says that the store is being closed, errGone that a layer has left, with its files.
var (
	errStopped = errors.New("the store is being closed")
	errGone    = errors.New("the layer is gone")
)

// eachBlock calls fn for runs of the blocks that a sealed layer holds. It reads at no more than half the disk's speed.
func (s *Store) eachBlock(l *layer, fn func(block uint64, data []byte) error) error {
	buffer := make([]byte, sumsAtOne*blockSize)
	for next := uint64(0); ; {
		var regions []uint64
		err := s.index.View(func(tx *blockmap.Tx) (err error) {
			regions, err = touchedFrom(tx, l, next, regionsAtOnce)
			return err
		})
		if err != nil || len(regions) == 0 {
			return err
		}
		for _, region := range regions {
			if err := s.eachBlockOf(l, region, buffer, fn); err != nil {
				return err
			}
			next = region + 1
		}
	}
}

func (s *Store) eachBlockOf(l *layer, region uint64, buffer []byte, fn func(block uint64, data []byte) error) error {
	held, err := s.heldBy(l, region)
	if err != nil {
		return err
	}
	held.Runs(func(from, to int) {
		for ; from < to && err == nil; from += sumsAtOne {
			began := time.Now()
			block := region*blockmap.RegionBlocks + uint64(from)
			p := buffer[:min(sumsAtOne, to-from)*blockSize]
			if err = s.readLayer(l, p, int64(block)*blockSize); err == nil {
				err = fn(block, p)
			}
			select {
			case <-s.stop:
				err = errStopped
			case <-time.After(time.Since(began)):
			}
		}
	})
	return err
}

// heldBy are the blocks of a region that a sealed layer holds and has not lost.
func (s *Store) heldBy(l *layer, region uint64) (held blockmap.Bitmap, err error) {
	err = s.index.View(func(tx *blockmap.Tx) error {
		s.tree.RLock()
		defer s.tree.RUnlock()
		r, err := l.recordLocked(tx, region)
		held = r.Data
		l.lost.without(region, &held)
		return err
	})
	return held, err
}

// readLayer reads from a layer's data file; errGone. What has left it must not open again: that would keep its room.
func (s *Store) readLayer(l *layer, p []byte, off int64) error {
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	if s.tree.layer(l.id) != l {
		return errGone
	}
	fd, err := s.data.open(l, false)
	if err != nil {
		return err
	}
	return readBlocks(fd, l, p, off)
}
