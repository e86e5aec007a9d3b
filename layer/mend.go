package layer

// Mending: what a repair and a restore do to an index, so that it says what there is.

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// mender sets right what can be, and notes what it has done.
type mender struct {
	*offline
	cause  string // of losses, for the warnings of snapshots
	quiet  bool   // what is only counted or noted is not worth a line
	done   []Finding
	lost   []Finding // what could not be saved, and the store does not note
	states []Finding // files that are suspect

	wentBack time.Time // the newest moment that an index knows of which is an older copy; zero: it is none
}

// counted is did for what changes nothing that anybody sees.
func (m *mender) counted(object, format string, args ...any) {
	if !m.quiet {
		m.did(object, format, args...)
	}
}

func (m *mender) did(object, format string, args ...any) {
	m.done = append(m.done, Finding{Object: object, Text: fmt.Sprintf(format, args...)})
}

// mend goes through all that can be set right in the index. After each step the index is sound, and running it again
// goes on.
func (m *mender) mend() error {
	for _, step := range []func() error{m.listRecords, m.mendLinks, m.sealLosers, m.noteLost, m.dropSums, m.mendImages, m.recount, m.warn} {
		if err := m.read(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return m.read()
}

// listRecords enters records in the list of regions that layers touch.
func (m *mender) listRecords() error {
	type key struct {
		id     LayerID
		region uint64
	}
	var missing []key
	err := m.index.View(func(tx *blockmap.Tx) error {
		for n := range m.catalog.lineages {
			err := tx.Records(n, func(region uint64, id LayerID, _ *blockmap.Record) error {
				listed, err := tx.Get(regionKey(tableTouched, id, region))
				if err == nil && listed == nil && m.tree.layer(id) != nil {
					missing = append(missing, key{id, region})
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range missing {
		m.did(layerName(k.id), "its record of region %d is listed again", k.region)
	}
	return inSteps(m.index, missing, func(tx *blockmap.Tx, k key) error {
		tx.Put(regionKey(tableTouched, k.id, k.region), nil)
		return nil
	})
}

// mendLinks sets right what is named and is not there, where nothing is lost by that.
func (m *mender) mendLinks() error {
	c, next := m.catalog, m.catalog.store.Next
	for id := range c.layers {
		next = max(next, uint64(id)+1)
	}
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		for id, n := range c.snapshots {
			if _, ok := c.snapshots[n.Parent]; n.Parent == 0 || ok {
				continue
			}
			n.Parent = 0
			put(tx, catalogKey(tableSnapshot, id), n)
			m.did(c.vms[n.VM].Name+"@"+n.Name, "the snapshot that it grew from is gone; it stands for itself now")
		}
		if next == c.store.Next {
			return nil
		}
		m.did(indexName, "ids go on from %d, behind those that were given out", next)
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.Next = next })
	}))
}

// layers are all of the tree that hold something, by id.
func (m *mender) layers() (all []*layer) {
	for id, r := range m.catalog.layers {
		if r.HasFile || r.Blocks > 0 {
			all = append(all, m.tree.layer(id))
		}
	}
	slices.SortFunc(all, func(a, b *layer) int { return cmp.Compare(a.id, b.id) })
	return all
}

// sealLosers puts a new head over each head that has lost something: what is lost is only noted of sealed layers.
func (m *mender) sealLosers() error {
	for id, f := range m.catalog.files {
		l := m.tree.layer(f.Head)
		if f.Unlinked || l == nil {
			continue // the start drops it
		}
		holes, err := m.holes(l)
		if err != nil {
			return err
		}
		if len(holes) == 0 {
			continue
		}
		if err := m.clearVoid(l); err != nil {
			return err
		}
		if err := m.writeBack(l, f.Size); err != nil {
			return err
		}
		if err := m.sealHead(id, l); err != nil {
			return err
		}
	}
	return nil
}

// sealHead commits a new head over l, which is the file's, in l's lineage.
func (m *mender) sealHead(file FileID, l *layer) error {
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		var head LayerID
		err := edit(tx, []byte{tableMeta}, func(r *storeRecord) {
			head = LayerID(r.Next)
			r.Next++
		})
		if err != nil {
			return err
		}
		put(tx, catalogKey(tableLayer, head), layerRecord{Lineage: l.lineage.id, File: file, Created: time.Now().UnixNano()})
		return edit(tx, catalogKey(tableFile, file), func(r *fileRecord) { r.Head = head })
	}))
}

// clearVoid does what the start would have done to a head that a shrink has cut off.
func (m *mender) clearVoid(l *layer) error {
	if l.void == noCut {
		return nil
	}
	var regions []uint64
	err := m.index.View(func(tx *blockmap.Tx) (err error) {
		regions, err = touchedFrom(tx, l, l.void/blockmap.RegionBlocks, int(^uint(0)>>1))
		return err
	})
	if err != nil {
		return err
	}
	err = inSteps(m.index, regions, func(tx *blockmap.Tx, region uint64) error {
		in, r, err := m.tree.recordToChange(tx, l, region)
		if err != nil {
			return err
		}
		was := r.Empty()
		cutOff(&r, region, l.void)
		putRecord(tx, in, l.id, region, was, &r)
		return nil
	})
	if err != nil {
		return err
	}
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableLayer, l.id), func(r *layerRecord) { r.Void = nil })
	}))
}

// noteLost notes which blocks layers have lost, beside those that are noted already.
func (m *mender) noteLost() error {
	type change struct {
		id     LayerID
		region uint64
		blocks blockmap.Bitmap
	}
	for _, l := range m.layers() {
		holes, err := m.holes(l)
		if err != nil {
			return err
		}
		var changes []change
		var blocks int64
		for region, found := range holes {
			fresh := *found
			l.lost.without(region, &fresh)
			if fresh.Empty() {
				continue
			}
			blocks += int64(fresh.Count())
			if noted := l.lost[region]; noted != nil {
				fresh.Or(noted)
			}
			changes = append(changes, change{l.id, region, fresh})
		}
		if len(changes) == 0 {
			continue
		}
		err = inSteps(m.index, changes, func(tx *blockmap.Tx, c change) error {
			putLost(tx, c.id, c.region, &c.blocks)
			return nil
		})
		if err != nil {
			return err
		}
		m.counted(layerName(l.id), "%s that its data file has lost are noted: to read them is EIO, not zeros", bytesText(blocks*blockSize))
	}
	return nil
}

// recount counts anew what is kept as a number: the blocks that each layer holds, and those that each file shows.
func (m *mender) recount() error {
	blocks := make(map[LayerID]int64)
	for _, l := range m.layers() {
		err := m.records(l, func(_ uint64, r *blockmap.Record) error {
			blocks[l.id] += int64(r.Data.Count())
			return nil
		})
		if err != nil {
			return err
		}
		if l.void != noCut {
			blocks[l.id] = m.catalog.layers[l.id].Blocks // the start counts what it clears
		}
	}
	var layers []LayerID
	missing := make(map[LayerID]bool)
	for id, r := range m.catalog.layers {
		_, err := os.Lstat(filepath.Join(m.dir, layersName, fileName(id)))
		missing[id] = errors.Is(err, os.ErrNotExist)
		switch n := blocks[id]; {
		case n == 0 && r.HasFile && missing[id]:
			layers = append(layers, id)
			m.did(layerName(id), "its data file, in which there was nothing, is missing; it gets one when it is written to")
		case n > 0 && !r.HasFile:
			layers = append(layers, id)
			m.counted(layerName(id), "it has a data file, of %d blocks, and was listed without one", n)
		case n != r.Blocks:
			layers = append(layers, id)
			m.counted(layerName(id), "it holds %d blocks, and was listed with %d", n, r.Blocks)
		}
	}
	err := inSteps(m.index, layers, func(tx *blockmap.Tx, id LayerID) error {
		return edit(tx, catalogKey(tableLayer, id), func(r *layerRecord) {
			r.Blocks, r.HasFile = blocks[id], blocks[id] > 0 || r.HasFile && !missing[id]
		})
	})
	if err != nil {
		return err
	}
	return m.recountFiles()
}

func (m *mender) recountFiles() error {
	for id, f := range m.catalog.files {
		l := m.tree.layer(f.Head)
		if f.Unlinked || l == nil || l.void != noCut {
			continue
		}
		n, err := m.allocated(m.tree.chain(l), f.Size)
		if err != nil {
			return err
		}
		if n == f.Allocated {
			continue
		}
		m.counted(m.catalog.vms[f.VM].Name+"/"+f.Name, "%d blocks are allocated, and were counted as %d", n, f.Allocated)
		err = commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			return edit(tx, catalogKey(tableFile, id), func(r *fileRecord) { r.Allocated = n })
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

// lostWarning is how the warning of a snapshot begins that has lost something.
const lostWarning = "data is lost"

// warn gives snapshots a warning that have lost something.
func (m *mender) warn() error {
	losses, err := m.losses()
	if err != nil {
		return err
	}
	lost := make(map[SnapshotID]int64)
	for _, l := range losses {
		lost[l.snapshot] += l.bytes()
	}
	delete(lost, 0)
	for id, bytes := range lost {
		if strings.Contains(m.catalog.snapshots[id].Warning, lostWarning) {
			delete(lost, id)
			continue
		}
		err := commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			return edit(tx, catalogKey(tableSnapshot, id), func(r *snapshotRecord) {
				r.addWarning(fmt.Sprintf("%s (%s, %s); `snapfs check` says which", lostWarning, bytesText(bytes), m.cause))
			})
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

// addWarning puts a warning behind those that there are.
func (r *snapshotRecord) addWarning(text string) {
	if r.Warning != "" {
		r.Warning += "; "
	}
	r.Warning += text
}
