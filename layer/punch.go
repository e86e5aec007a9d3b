package layer

// Punching: holes in data files, where the index has let go of blocks. What is to be punched is recorded in the
// transaction that lets go of it, so that no crash forgets it.

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// punch is a part of a data file that the index has let go of.
type punch struct {
	layer  LayerID
	region uint64
	blocks blockmap.Bitmap
	of     *layer // the layer itself, where it is known
}

// decodePunch reads a punch record: the blocks are written as a region record's data.
func decodePunch(key, value []byte) (punch, error) {
	id, err := keyID(key, 0)
	if err != nil {
		return punch{}, err
	}
	region, err := keyID(key, 1)
	if err != nil {
		return punch{}, err
	}
	var r blockmap.Record
	if err := r.UnmarshalBinary(bytes.Clone(value)); err != nil {
		return punch{}, fmt.Errorf("punch record of %s: %w", layerName(LayerID(id)), err)
	}
	return punch{layer: LayerID(id), region: region, blocks: r.Data}, nil
}

func getPunch(tx *blockmap.Tx, id LayerID, region uint64) (punch, error) {
	key := regionKey(tablePunch, id, region)
	value, err := tx.Get(key)
	if err != nil || value == nil {
		return punch{layer: id, region: region}, err
	}
	return decodePunch(key, value)
}

// setPunch writes or, with no blocks, removes a punch record.
func setPunch(tx *blockmap.Tx, p punch) error {
	key := regionKey(tablePunch, p.layer, p.region)
	if p.blocks.Empty() {
		tx.Delete(key)
		return nil
	}
	value, err := (&blockmap.Record{Data: p.blocks}).AppendBinary(nil)
	if err == nil {
		tx.Put(key, value)
	}
	return err
}

// putPunch records blocks to punch out beside those recorded before, and returns how many are new.
func putPunch(tx *blockmap.Tx, id LayerID, region uint64, blocks *blockmap.Bitmap) (added int64, err error) {
	p, err := getPunch(tx, id, region)
	if err != nil {
		return 0, err
	}
	before := p.blocks.Count()
	p.blocks.Or(blocks)
	return int64(p.blocks.Count() - before), setPunch(tx, p)
}

// punchAll gives back blocks of layers that the index has let go of. In a head, they may have been written again since.
// Requests that may be reading them are waited for once for all.
func (r *reclaimer) punchAll(jobs []job) {
	var found []punch
	for _, j := range jobs {
		p, err := r.toPunch(j)
		if err == nil && !p.blocks.Empty() {
			found = append(found, p)
			continue
		}
		r.ended(j, err)
	}
	if len(found) > 0 {
		r.store.epochs.wait()
	}
	for _, p := range found {
		punched, err := r.punchBlocks(p.of, p)
		if err == nil {
			r.punched = append(r.punched, punch{layer: p.layer, region: p.region, blocks: punched, of: p.of})
		}
		r.ended(job{layer: p.of, region: p.region, punch: true}, err)
	}
}

// toPunch reads what is to be punched in a region of a layer: nothing if that left, and its file with it.
func (r *reclaimer) toPunch(j job) (p punch, err error) {
	r.mu.Lock()
	delete(r.givenUp, layerRegion{j.layer, j.region}) // before the view: what that misses is given up by now
	r.mu.Unlock()
	if r.store.tree.layer(j.layer.id) != j.layer {
		return p, nil
	}
	err = r.store.index.View(func(tx *blockmap.Tx) (err error) {
		p, err = getPunch(tx, j.layer.id, j.region)
		return err
	})
	p.of = j.layer
	return p, err
}

// giveUp notes what a head gave up, before the index is told. A hole that was made in it before may have been written
// again in between: it is not forgotten, but made once more.
func (r *reclaimer) giveUp(l *layer, given map[uint64]*blockmap.Bitmap) {
	if len(given) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.givenUp == nil {
		r.givenUp = make(map[layerRegion]blockmap.Bitmap)
	}
	for region, blocks := range given {
		at := layerRegion{l, region}
		all := r.givenUp[at]
		all.Or(blocks)
		r.givenUp[at] = all
	}
}

// punchBlocks punches those that hold no data now, and returns them. Their lock keeps a head from writing one
// meanwhile.
func (r *reclaimer) punchBlocks(l *layer, p punch) (blockmap.Bitmap, error) {
	s := r.store
	if !l.hasFile.Load() {
		return p.blocks, nil
	}
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	fd, err := s.data.open(l, false)
	if err != nil {
		return blockmap.Bitmap{}, err
	}
	base := p.region * blockmap.RegionBlocks
	if f := r.writtenBy(l); f != nil {
		defer f.lockBlocks(base, base+blockmap.RegionBlocks-1)()
	}
	var held blockmap.Bitmap
	unsaved := l.unsaved(p.region) // before the view: what it misses is committed by then
	err = s.index.View(func(tx *blockmap.Tx) (err error) {
		held, err = s.tree.heldWith(tx, l, p.region, &unsaved)
		return err
	})
	if err != nil {
		return held, err
	}
	punched := p.blocks
	punched.AndNot(&held)
	var errs []error
	punched.Runs(func(from, to int) {
		errs = append(errs, punchHole(fd, int64(base+uint64(from))*blockSize, int64(to-from)*blockSize))
	})
	if err := errors.Join(errs...); err != nil {
		return held, hostError("punch a hole into data file", l, err)
	}
	return punched, nil
}

// settleAtOnce is how many holes are made durable, and files removed, together.
const settleAtOnce = 64

// settle makes holes durable, removes files, and drops the records that would have a start make them again.
func (r *reclaimer) settle() error {
	s, punched, left := r.store, r.punched, r.left
	if err := r.syncHoles(punched); err != nil {
		return err
	}
	if len(left) > 0 {
		if err := r.removeFiles(left); err != nil {
			return err
		}
	}
	var gone int64
	var again []job
	err := s.updateFreeing(func(tx *blockmap.Tx) error {
		gone, again = 0, nil
		for _, p := range punched {
			n, more, err := r.forgetPunched(tx, p)
			if err != nil {
				return err
			}
			gone += n
			if more {
				again = append(again, job{layer: p.of, region: p.region, punch: true})
			}
		}
		for _, l := range left {
			n, err := forgetLayer(tx, l.id)
			if err != nil {
				return err
			}
			gone += n
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.punched, r.left = nil, nil
	r.pending.Add(-gone * blockSize)
	r.add(again...)
	return nil
}

// syncHoles syncs each data file that was punched, but for those that were removed since.
func (r *reclaimer) syncHoles(punched []punch) error {
	s, done := r.store, make(map[*layer]bool)
	for _, p := range punched {
		if done[p.of] || s.tree.layer(p.layer) != p.of || !p.of.hasFile.Load() {
			continue
		}
		done[p.of] = true
		slot := s.epochs.enter()
		fd, err := s.data.open(p.of, false)
		if err == nil {
			err = dataSync(fd)
		}
		s.epochs.leave(slot)
		if err != nil {
			// The kernel tells of a failed writeback once: it told us, so that a flush would not hear of it.
			s.fail(p.of)
			return hostError("sync data file", p.of, err)
		}
	}
	return nil
}

// forgetPunched takes off the record what was punched, and what the layer holds again, and says how many blocks that
// were. What it gave up again since is left for another turn.
func (r *reclaimer) forgetPunched(tx *blockmap.Tx, p punch) (gone int64, more bool, err error) {
	now, err := getPunch(tx, p.layer, p.region)
	if err != nil {
		return 0, false, err
	}
	unsaved := p.of.unsaved(p.region)
	held, err := r.store.tree.heldWith(tx, p.of, p.region, &unsaved)
	if err != nil {
		return 0, false, err
	}
	r.mu.Lock()
	again := r.givenUp[layerRegion{p.of, p.region}]
	r.mu.Unlock()
	p.blocks.AndNot(&again)
	before := now.blocks.Count()
	now.blocks.AndNot(&p.blocks)
	now.blocks.AndNot(&held)
	return int64(before - now.blocks.Count()), !now.blocks.Empty(), setPunch(tx, now)
}

// forgetLayer drops what is recorded of a data file that is gone, and says how many blocks were to be punched out of it.
func forgetLayer(tx *blockmap.Tx, id LayerID) (gone int64, err error) {
	tx.Delete(catalogKey(tableUnlink, id))
	err = tx.Scan(catalogKey(tablePunch, id), func(key, value []byte) error {
		p, err := decodePunch(key, value)
		gone += int64(p.blocks.Count())
		tx.Delete(key)
		return err
	})
	return gone, err
}

// writtenBy is the file whose head l is, or nil.
func (r *reclaimer) writtenBy(l *layer) *File {
	r.store.tree.RLock()
	defer r.store.tree.RUnlock()
	return l.owner
}

// unsaved are the blocks of a region that the index does not know l to hold yet, and will or may.
func (l *layer) unsaved(region uint64) (blocks blockmap.Bitmap) {
	if w := l.writer(); w != nil {
		blocks = w.dirty.Held(region)
	}
	return blocks
}

// heldWith are the blocks of a region that l holds, or will or may hold when what is unsaved is committed: whatever a
// crash leaves, none of them may be a hole.
func (t *tree) heldWith(tx *blockmap.Tx, l *layer, region uint64, unsaved *blockmap.Bitmap) (blockmap.Bitmap, error) {
	t.RLock()
	defer t.RUnlock()
	rec, err := l.recordLocked(tx, region)
	rec.Data.Or(unsaved)
	return rec.Data, err
}

// punchHole gives back n bytes at off; a file system without holes keeps what it has.
func punchHole(fd int, off, n int64) error {
	err := faulty("punch")
	if err == nil {
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
