package layer

// What an index from a backup must not be believed, because the data files went on since:
//
//   - Ids that it would give out next may have been given out: they go on far above.
//   - What it would clean up at the next start may be in use since: heads that were being made, data files and images that it
//     knows of and believes to be empty or nobody's. None of them is removed: they go into quarantine.
//   - A block that it says a layer holds may have been punched: where there is a hole now, it is noted as lost. A layer that
//     was sealed when the backup was made has only been punched since, never written. So what is there is what was there, and
//     a snapshot of the backup shows it, or EIO.
//   - A head went on: it was written in place, took and gave up blocks, and grew, until it was sealed by a snapshot that the
//     backup does not know. What its data file has beyond the index is adopted, so that the file shows the last that went to
//     this layer; what was discarded since is EIO or as it was below. It is told as suspect.

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	// idsSkipped is how many ids are left out: more than can have been given out since the backup.
	idsSkipped = 1 << 32

	// unsure is for how long before a backup was begun a write may not be in it: far longer than a flush takes.
	unsure = 10 * flushEvery
)

// adjust makes an index that was made of a backup of some time fit for the data files of today.
func (m *mender) adjust(at time.Time) error {
	steps := []func() error{
		m.dropPrepared, func() error { return m.skipIDs(at) }, m.dropImages,
		func() error { return m.adoptHeads(at.Add(-unsure)) },
	}
	for _, step := range steps {
		if err := m.read(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return m.mend()
}

// dropPrepared takes heads that were being made out of the catalog. Their data files are unknown to it from then on.
func (m *mender) dropPrepared() error {
	for vm, p := range m.catalog.prepared {
		err := commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			tx.Delete(catalogKey(tablePrepared, vm))
			dropPrepared(tx, p)
			for _, id := range p.Layers {
				tx.Delete(catalogKey(tableUnlink, id))
			}
			return nil
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

// skipIDs has ids given out that nobody can have, and marks the restore, to what was at that time, as begun and told to nobody.
func (m *mender) skipIDs(at time.Time) error {
	var last uint64
	for _, dir := range []string{layersName, sumsName, imagesName} {
		err := m.eachFile(dir, func(name string, _ os.FileInfo) {
			if id, ok := idInName(name); ok {
				last = max(last, id)
			}
		})
		if err != nil {
			return err
		}
	}
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) {
			r.Next = max(r.Next, last+1) + idsSkipped
			r.Restored, r.Restoring = time.Now().UnixNano(), true
			if r.Untold == 0 || at.UnixNano() < r.Untold {
				r.Untold = at.UnixNano()
			}
		})
	}))
}

// maxID is far above every id that a store gives out: a file named by a higher one is somebody else's.
const maxID = 1 << 55

// idInName is the id by which a file of a layer or of a memory image is named.
func idInName(name string) (id uint64, ok bool) {
	bare := strings.TrimSuffix(name, packedExt)
	id, err := strconv.ParseUint(bare, 16, 64)
	return id, err == nil && fileName(LayerID(id)) == bare && id < maxID
}

// dropImages forgets images that no snapshot has: the start would remove their files.
func (m *mender) dropImages() error {
	owned := make(map[imageID]bool)
	for _, n := range m.catalog.snapshots {
		owned[n.Memory] = true
	}
	for id := range m.catalog.images {
		if owned[id] || !m.imageThere(id) {
			continue
		}
		err := commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			tx.Delete(catalogKey(tableImage, id))
			return nil
		}))
		if err != nil {
			return err
		}
	}
	return nil
}

// adoptHeads brings files up to what the data files of their heads have, where those were written since.
func (m *mender) adoptHeads(since time.Time) error {
	for id, f := range m.catalog.files {
		l := m.tree.layer(f.Head)
		if f.Unlinked || l == nil {
			continue
		}
		data, err := m.openData(l.id)
		if err != nil {
			return err
		}
		if data == nil {
			continue // if it should have one, all in it is lost
		}
		err = m.adoptHead(id, f, l, data, since)
		if closeErr := data.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *mender) adoptHead(id FileID, f fileRecord, l *layer, data *os.File, since time.Time) error {
	info, err := data.Stat()
	if err != nil || info.ModTime().Before(since) {
		return err // it is as the backup has it
	}
	held, end, err := heldIn(data, l.void)
	if err != nil {
		return err
	}
	if err := m.clearVoid(l); err != nil {
		return err
	}
	var regions []uint64
	for region := range held {
		regions = append(regions, region)
	}
	var blocks int64
	err = inSteps(m.index, regions, func(tx *blockmap.Tx, region uint64) error {
		n, err := m.adoptRegion(tx, l, region, held[region])
		blocks += n
		return err
	})
	if err != nil {
		return err
	}
	m.suspect(id, f, blocks)
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		err := tx.Scan(catalogKey(tablePunch, l.id), func(key, _ []byte) error {
			tx.Delete(key) // the block may have been written again
			return nil
		})
		if err != nil {
			return err
		}
		err = edit(tx, catalogKey(tableFile, id), func(r *fileRecord) { r.Size = max(r.Size, end) })
		if err != nil {
			return err
		}
		return edit(tx, catalogKey(tableLayer, l.id), func(r *layerRecord) { r.HasFile, r.Log = true, nil })
	}))
}

// adoptRegion has a layer hold blocks of a region, and says how many are new.
func (m *mender) adoptRegion(tx *blockmap.Tx, l *layer, region uint64, held *blockmap.Bitmap) (int64, error) {
	in, r, err := m.tree.recordToChange(tx, l, region)
	if err != nil {
		return 0, err
	}
	fresh, was := *held, r.Empty()
	fresh.AndNot(&r.Data)
	if fresh.Empty() {
		return 0, nil
	}
	r.Data.Or(&fresh)
	r.Zero.AndNot(&fresh)
	putRecord(tx, in, l.id, region, was, &r)
	return int64(fresh.Count()), nil
}

// heldIn are the whole blocks below a block that a data file has, by region, and where the last of them ends.
func heldIn(f *os.File, below uint64) (held map[uint64]*blockmap.Bitmap, end int64, err error) {
	held = make(map[uint64]*blockmap.Bitmap)
	for at := int64(0); ; {
		data, err := seek(f, at, unix.SEEK_DATA, -1)
		if err != nil || data < 0 {
			return held, end, err
		}
		if at, err = seek(f, data, unix.SEEK_HOLE, data); err != nil || at == data {
			return held, end, err
		}
		from, to := uint64(data+blockSize-1)/blockSize, min(uint64(at)/blockSize, below)
		for from < to {
			region, i := from/blockmap.RegionBlocks, from%blockmap.RegionBlocks
			n := min(to-from, blockmap.RegionBlocks-i)
			if held[region] == nil {
				held[region] = &blockmap.Bitmap{}
			}
			held[region].SetRange(int(i), int(i+n))
			from += n
			end = int64(from) * blockSize
		}
	}
}

// suspect notes a file whose head went on after the backup.
func (m *mender) suspect(id FileID, f fileRecord, adopted int64) {
	text := "was written after that: it is not what it was at any one time. Check its file system, or revert the VM"
	if adopted > 0 {
		text += fmt.Sprintf(" (%s more of it than the index knew is there)", bytesText(adopted*blockSize))
	}
	m.states = append(m.states, Finding{Object: m.catalog.vms[f.VM].Name + "/" + f.Name, Text: text})
}

// unknown are the files that the restored index does not know, or does not know to hold anything: a start would remove
// those.
func (m *mender) unknown() ([]stray, error) {
	found, err := m.strays(layersName, imagesName)
	if err != nil {
		return nil, err
	}
	err = m.eachFile(layersName, func(name string, info os.FileInfo) {
		id, err := strconv.ParseUint(name, 16, 64)
		if err != nil {
			return
		}
		if r, known := m.catalog.layers[LayerID(id)]; known && !r.HasFile && r.Blocks == 0 {
			found = append(found, newStray(layersName, "is of a layer that holds nothing in the backup", info))
		}
	})
	return found, err
}
