package layer

// Lost blocks: such as the index says that a layer's data file holds, and that are holes there, which would read as zeros.
// Whoever looks for them while nobody has the store open (check --repair, restore-index) notes them in the index. From then
// on reading one is EIO. Only sealed layers have any: a head that lost something is sealed by another head over it, so that a
// block is whole again once it is written as a whole.

import (
	"bytes"
	"fmt"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// lostBlocks are those of a layer, by region. What of them the layer no longer holds means nothing.
type lostBlocks map[uint64]*blockmap.Bitmap

// refuseLost is EIO if a range of the layer's data file has lost anything.
func (l *layer) refuseLost(off, n int64) error {
	for block := uint64(off) / blockSize; block <= uint64(off+n-1)/blockSize; block++ {
		if b := l.lost[block/blockmap.RegionBlocks]; b != nil && b.Has(int(block%blockmap.RegionBlocks)) {
			return Errorf(syscall.EIO, "block %d of data file %s is lost, as `snapfs check` found", block, fileName(l.id))
		}
	}
	return nil
}

// without takes what is lost in a region out of blocks.
func (b lostBlocks) without(region uint64, blocks *blockmap.Bitmap) {
	if lost := b[region]; lost != nil {
		blocks.AndNot(lost)
	}
}

// ranges are the runs of blocks, from the first of a pair up to the second.
func (b lostBlocks) ranges() (all [][2]int64) {
	for region, blocks := range b {
		base := int64(region) * blockmap.RegionBlocks
		blocks.Runs(func(from, to int) { all = append(all, [2]int64{base + int64(from), base + int64(to)}) })
	}
	return joined(all)
}

// inBytes makes ranges of bytes of ranges of blocks.
func inBytes(blocks [][2]int64) (all [][2]int64) {
	for _, r := range blocks {
		all = append(all, [2]int64{r[0] * blockSize, r[1] * blockSize})
	}
	return all
}

func decodeLost(key, value []byte) (id LayerID, region uint64, blocks *blockmap.Bitmap, err error) {
	layer, err := keyID(key, 0)
	if err != nil {
		return 0, 0, nil, err
	}
	if region, err = keyID(key, 1); err != nil {
		return 0, 0, nil, err
	}
	var r blockmap.Record
	if err := r.UnmarshalBinary(bytes.Clone(value)); err != nil {
		return 0, 0, nil, fmt.Errorf("lost blocks of %s: %w", layerName(LayerID(layer)), err)
	}
	return LayerID(layer), region, &r.Data, nil
}

// putLost notes what a layer has lost in a region; nothing, too.
func putLost(tx *blockmap.Tx, id LayerID, region uint64, blocks *blockmap.Bitmap) {
	key := regionKey(tableLost, id, region)
	if blocks.Empty() {
		tx.Delete(key)
		return
	}
	value, _ := (&blockmap.Record{Data: *blocks}).MarshalBinary() // never fails
	tx.Put(key, value)
}

// keepLost leaves noted, of what the layer lost in a region, what it still holds.
func (l *layer) keepLost(tx *blockmap.Tx, region uint64, held *blockmap.Bitmap) {
	if lost := l.lost[region]; lost != nil {
		left := *lost
		left.And(held)
		putLost(tx, l.id, region, &left)
	}
}

// forgetLost drops what is noted of a layer that leaves.
func (l *layer) forgetLost(tx *blockmap.Tx) {
	for region := range l.lost {
		tx.Delete(regionKey(tableLost, l.id, region))
	}
}
