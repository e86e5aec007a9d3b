package layer

// Check: is what the index says of the data files, and what the catalog says of itself, true?

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// Finding is something that is not as it should be.
type Finding struct {
	Object string `json:"object"` // what it is about: a VM's file, a snapshot, a layer, a path in the store
	Text   string `json:"text"`
}

// Report is what a check found, and how much it looked at. Bytes: data that layers hold.
type Report struct {
	Findings  []Finding `json:"findings"`
	VMs       int       `json:"vms"`
	Files     int       `json:"files"`
	Snapshots int       `json:"snapshots"`
	Layers    int       `json:"layers"`
	Records   int64     `json:"records"`
	Bytes     int64     `json:"bytes"`
}

// Check looks through a store that nobody has mounted, without changing it.
func Check(dir string) (Report, error) {
	if _, err := os.Stat(dir); err != nil {
		return Report{}, Errorf(unix.ENOENT, "check store: %w", err)
	}
	if empty, err := makeStore(dir); err != nil {
		return Report{}, err
	} else if empty {
		return Report{}, Errorf(unix.ENOENT, "%s is not a snapfs store: it is empty", dir)
	}
	lock, err := lockStore(dir)
	if err != nil {
		return Report{}, err
	}
	defer lock.Close()
	if err := errors.Join(readFormat(dir), makeParts(dir)); err != nil {
		return Report{}, err
	}
	space, err := newSpace(dir, Reserve{}, func(string, string, ...any) {})
	if err != nil {
		return Report{}, err
	}
	defer space.ballast.close()
	index, err := blockmap.Open(filepath.Join(dir, indexName), blockmap.Options{
		Room: space.room, Counter: filepath.Join(dir, commitsName),
	})
	if errors.Is(err, blockmap.ErrFull) {
		return Report{}, indexError(err, "open the index of store "+dir)
	}
	if err != nil {
		return Report{Findings: []Finding{{Object: indexName, Text: err.Error()}}}, nil
	}
	defer index.Close()
	c, err := readCatalog(index)
	if err != nil {
		return Report{Findings: []Finding{{Object: indexName, Text: err.Error()}}}, nil
	}
	k := &check{dir: dir, index: index, catalog: c, files: make(map[LayerID]os.FileInfo)}
	k.Findings = []Finding{}
	err = errors.Join(k.listFiles(), k.checkCatalog(), k.checkRecords(), k.checkImages())
	return k.Report, err
}

type check struct {
	Report
	dir     string
	index   *blockmap.Index
	catalog *catalog
	files   map[LayerID]os.FileInfo
}

func (k *check) found(object, format string, args ...any) {
	k.Findings = append(k.Findings, Finding{Object: object, Text: fmt.Sprintf(format, args...)})
}

// listFiles finds what lies in layers/ that does not belong there.
func (k *check) listFiles() error {
	entries, err := readDir(filepath.Join(k.dir, layersName))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		id, err := strconv.ParseUint(entry.Name(), 16, 64)
		info, statErr := entry.Info()
		switch {
		case err != nil || fileName(LayerID(id)) != entry.Name() || statErr != nil || !info.Mode().IsRegular():
			k.found(layersName+"/"+entry.Name(), "is not a data file of this store")
			continue
		}
		k.files[LayerID(id)] = info
		if _, known := k.catalog.layers[LayerID(id)]; !known && !slices.Contains(k.catalog.unlinks, LayerID(id)) {
			k.found(layersName+"/"+entry.Name(), "is a data file that the catalog does not know")
		}
	}
	return nil
}

func (k *check) checkCatalog() error {
	c := k.catalog
	k.VMs, k.Files, k.Snapshots, k.Layers = len(c.vms), len(c.files), len(c.snapshots), len(c.layers)
	for id, l := range c.layers {
		if _, ok := c.lineages[l.Lineage]; !ok {
			k.found(layerName(id), "is of lineage %d, which is missing", l.Lineage)
		}
		if uint64(id) >= c.store.Next {
			k.found(layerName(id), "has an id that was not given out yet")
		}
		if _, there := k.files[id]; l.HasFile && !there {
			k.found(layerName(id), "has lost its data file, with %d blocks", l.Blocks)
		}
		if _, err := os.Stat(filepath.Join(k.dir, sumsName, fileName(id))); l.Summed && err != nil {
			k.found(layerName(id), "has lost its checksums")
		}
	}
	for id, n := range c.lineages {
		if n.Parent == 0 {
			continue
		}
		if below, ok := c.layers[n.Branch]; !ok || below.Lineage != n.Parent {
			k.found(fmt.Sprintf("lineage %d", id), "grew from layer %d of lineage %d, which is missing", n.Branch, n.Parent)
		}
	}
	k.checkOwners()
	return nil
}

// checkOwners looks at what files and snapshots name, and that no two name the same layer.
func (k *check) checkOwners() {
	c, owners := k.catalog, make(map[LayerID]string)
	own := func(object string, id LayerID) {
		if _, ok := c.layers[id]; !ok {
			k.found(object, "needs layer %d, which is missing", id)
		}
		if other, taken := owners[id]; taken {
			k.found(object, "has layer %d, which %s has too", id, other)
		}
		owners[id] = object
	}
	names := make(map[string]FileID)
	for id, f := range c.files {
		object := fmt.Sprintf("%s/%s", c.vms[f.VM].Name, f.Name)
		if !f.Unlinked { // one that is was open, perhaps longer than its VM was there; the start removes it
			if _, ok := c.vms[f.VM]; !ok {
				k.found(object, "is of VM %d, which is missing", f.VM)
			}
			if other, taken := names[object]; taken {
				k.found(object, "is the name of files %d and %d", id, other)
			}
			names[object] = id
		}
		own(object, f.Head)
	}
	for _, n := range c.snapshots {
		for _, e := range n.Files {
			own(fmt.Sprintf("%s@%s/%s", c.vms[n.VM].Name, n.Name, e.Name), e.Layer)
		}
		if _, ok := c.vms[n.VM]; !ok {
			k.found("snapshot "+n.Name, "is of VM %d, which is missing", n.VM)
		}
		if _, ok := c.snapshots[n.Parent]; n.Parent != 0 && !ok {
			k.found(c.vms[n.VM].Name+"@"+n.Name, "grew from snapshot %d, which is missing", n.Parent)
		}
	}
}

func layerName(id LayerID) string { return fmt.Sprintf("layer %d", id) }

// checkRecords compares what layers say they hold with what their data files hold.
func (k *check) checkRecords() error {
	return k.index.View(func(tx *blockmap.Tx) error {
		blocks := make(map[LayerID]int64)
		for id := range k.catalog.lineages {
			err := tx.Records(id, func(region uint64, layer LayerID, r *blockmap.Record) error {
				k.Records++
				blocks[layer] += int64(r.Data.Count())
				return k.checkRecord(tx, id, region, layer, r)
			})
			if err != nil {
				k.found(fmt.Sprintf("lineage %d", id), "%v", err)
			}
		}
		for id, l := range k.catalog.layers {
			k.Bytes += blocks[id] * blockSize
			if n := blocks[id]; n > 0 && !l.HasFile {
				k.found(layerName(id), "says that it holds %d blocks, but has no data file", n)
			}
		}
		return nil
	})
}

func (k *check) checkRecord(tx *blockmap.Tx, lin lineageID, region uint64, id LayerID, r *blockmap.Record) error {
	l, known := k.catalog.layers[id]
	own := k.catalog.lineages[l.Lineage]
	if !known || l.Lineage != lin && !(own.Into && own.Parent == lin) {
		k.found(layerName(id), "has a record in lineage %d, of which it is not", lin)
		return nil
	}
	touched, err := tx.Get(regionKey(tableTouched, id, region))
	if err != nil {
		return err
	}
	if touched == nil {
		k.found(layerName(id), "has a record of region %d that is not listed", region)
	}
	if _, there := k.files[id]; !there || r.Data.Empty() {
		return nil
	}
	return k.checkHoles(id, region, r)
}

// checkHoles finds blocks that the layer holds and its data file does not: they would read as zeros.
func (k *check) checkHoles(id LayerID, region uint64, r *blockmap.Record) error {
	f, err := os.Open(filepath.Join(k.dir, layersName, fileName(id)))
	if err != nil {
		return err
	}
	defer f.Close()
	base := int64(region) * blockmap.RegionSize
	r.Data.Runs(func(from, to int) {
		start, end := base+int64(from)*blockSize, base+int64(to)*blockSize
		hole, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil || hole < end {
			k.found(layerName(id), "holds blocks %d to %d, of which its data file has lost some", start/blockSize, end/blockSize-1)
		}
	})
	return nil
}
