package layer

// A store that nobody has open, as check, repair and restore look at it: the catalog, the tree of layers, and where data
// files have holes.

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

type offline struct {
	dir     string
	index   *blockmap.Index
	catalog *catalog
	tree    *tree // nil where the catalog does not hang together
	broken  error // then: why
	foreign []blockmap.Stray
}

// read reads the catalog, anew after changes to it. Without a tree that is the error.
func (o *offline) read() (err error) {
	o.tree = nil
	defer func() { o.broken = err }()
	if o.catalog, err = readCatalog(o.index); err != nil {
		return err
	}
	t := newTree()
	if err := t.load(o.catalog); err != nil {
		return err
	}
	o.tree = t
	return nil
}

// path is that of a layer's file in one of the store's directories.
func (o *offline) path(dir string, id LayerID) string {
	return filepath.Join(o.dir, dir, fileName(id))
}

// records calls fn for all records of a layer, without what a shrink has cut off of them.
func (o *offline) records(l *layer, fn func(region uint64, r *blockmap.Record) error) error {
	return o.index.View(func(tx *blockmap.Tx) error {
		return tx.Scan(catalogKey(tableTouched, l.id), func(key, _ []byte) error {
			region, err := keyID(key, 1)
			if err != nil {
				return err
			}
			r, err := l.recordLocked(tx, region)
			if err != nil {
				return err
			}
			cutOff(&r, region, l.void)
			return fn(region, &r)
		})
	})
}

// cutOff takes what a layer says of blocks from void up out of its record of a region.
func cutOff(r *blockmap.Record, region, void uint64) {
	if base := region * blockmap.RegionBlocks; void < base+blockmap.RegionBlocks {
		from := int(max(void, base) - base)
		r.Data.ClearRange(from, blockmap.RegionBlocks)
		r.Zero.ClearRange(from, blockmap.RegionBlocks)
	}
}

// openData opens a layer's data file; nil if there is none, or something else in its place.
func (o *offline) openData(id LayerID) (*os.File, error) {
	path := o.path(layersName, id)
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
}

// holes are the blocks that a layer holds and its data file does not.
func (o *offline) holes(l *layer) (lostBlocks, error) {
	f, err := o.openData(l.id)
	if err != nil {
		return nil, err
	}
	if f != nil {
		defer f.Close()
	}
	found := make(lostBlocks)
	err = o.records(l, func(region uint64, r *blockmap.Record) error {
		missing := r.Data
		if f != nil {
			var err error
			if missing, err = holesIn(f, region, &r.Data); err != nil {
				return err
			}
			if err := o.keepZeros(l, f, region, &missing); err != nil {
				return err
			}
		}
		if !missing.Empty() {
			found[region] = &missing
		}
		return nil
	})
	return found, err
}

// keepZeros takes out of what is missing the blocks that are to be zeros, by their checksums: a copy of the store, as by cp(1),
// has holes in their place.
func (o *offline) keepZeros(l *layer, f *os.File, region uint64, missing *blockmap.Bitmap) (err error) {
	if missing.Empty() || !o.catalog.layers[l.id].Summed {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	at := &sums{dir: filepath.Join(o.dir, sumsName)}
	blocks := *missing
	blocks.Runs(func(from, to int) {
		first := region*blockmap.RegionBlocks + uint64(from)
		there := min(int64(to-from), info.Size()/blockSize-int64(first))
		if err != nil || there <= 0 {
			return
		}
		want, sumsErr := at.read(l.id, first, int(there))
		if errors.Is(sumsErr, errNoSums) {
			return
		}
		err = sumsErr
		for i, sum := range want {
			if sum == sumOf(l.id, first+uint64(i), zeroBlock[:]) {
				missing.Clear(from + i)
			}
		}
	})
	return err
}

var zeroBlock [blockSize]byte

// holesIn are those of some blocks of a region that are not wholly there in a data file.
func holesIn(f *os.File, region uint64, blocks *blockmap.Bitmap) (missing blockmap.Bitmap, err error) {
	base := int64(region) * blockmap.RegionSize
	blocks.Runs(func(from, to int) {
		end := base + int64(to)*blockSize
		for at := base + int64(from)*blockSize; at < end && err == nil; {
			var hole, data int64
			if hole, err = seek(f, at, unix.SEEK_HOLE, at); err != nil || hole >= end {
				return
			}
			if data, err = seek(f, hole, unix.SEEK_DATA, end); err != nil {
				return
			}
			data = min(data, end)
			missing.SetRange(int((hole-base)/blockSize), int((data-base+blockSize-1)/blockSize))
			at = data
		}
	})
	return missing, err
}

// seek is lseek(2); behind the end of the file it finds past.
func seek(f *os.File, off int64, whence int, past int64) (int64, error) {
	found, err := unix.Seek(int(f.Fd()), off, whence)
	if errors.Is(err, unix.ENXIO) {
		return past, nil
	}
	return found, err
}

// allocated counts the blocks below size that read as data through a chain.
func (o *offline) allocated(c *blockmap.Chain, size int64) (blocks int64, err error) {
	end := (size + blockSize - 1) / blockSize
	for region := uint64(0); ; region++ {
		next, ok, err := o.index.NextRegion(c, region)
		if err != nil {
			return 0, err
		}
		base := int64(next) * blockmap.RegionBlocks
		if !ok || base >= end {
			return blocks, nil
		}
		region = next
		var owners blockmap.Owners
		if err := o.index.Resolve(c, region, nil, &owners); err != nil {
			return 0, err
		}
		for _, owner := range owners[:min(int64(len(owners)), end-base)] {
			if owner != 0 {
				blocks++
			}
		}
	}
}

// inSteps commits an edit for each item, in as many transactions as that takes.
func inSteps[T any](x *blockmap.Index, items []T, edit func(*blockmap.Tx, T) error) error {
	for len(items) > 0 {
		n := 0
		err := x.UpdateFreeing(func(tx *blockmap.Tx) error {
			for n = 0; n < len(items) && tx.Size() < x.MaxTx()/2; n++ {
				if err := edit(tx, items[n]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return commitError(err)
		}
		items = items[n:]
	}
	return nil
}
