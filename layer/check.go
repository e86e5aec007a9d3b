package layer

// Check: is what the index says of the data files, and what the catalog says of itself, true?

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// Finding is something that is not as it should be.
type Finding struct {
	Object string `json:"object"` // what it is about: a VM's file, a snapshot, a layer, a path in the store
	Text   string `json:"text"`
	// Ranges are all that the text names the first of: bytes of the object, from the first of a pair up to the second.
	Ranges [][2]int64 `json:"ranges,omitempty"`
	// Readers are all files and snapshots' files that show what a scrub found; Object is the first.
	Readers []string `json:"readers,omitempty"`
}

// Report is what a check found, and how much it looked at. Bytes: data that layers hold.
type Report struct {
	Findings  []Finding      `json:"findings"`
	VMs       int            `json:"vms"`
	Files     int            `json:"files"`
	Snapshots int            `json:"snapshots"`
	Layers    int            `json:"layers"`
	Records   int64          `json:"records"`
	Bytes     int64          `json:"bytes"`
	Notes     []Finding      `json:"notes"`    // what is no damage, and worth a word
	Repaired  []Finding      `json:"repaired"` // by Repair: what it did. Findings is what stays
	Lost      []Finding      `json:"lost"`     // by Repair: what is lost, or may be, and is noted nowhere in the store: told this once
	Unread    bool           `json:"unread"`   // the index can't be read, so nothing else was looked at
	WentBack  time.Time      `json:"-"`        // to a state of the index from then, or later, by Repair or untold; zero: it did not
	Untold    bool           `json:"-"`        // Told is to be called when that was told
	Restored  *RestoreReport `json:"-"`        // by Repair: what the restore that it took came to; nil: it took none
	Names     []string       `json:"-"`        // VMs, and snapshots as VM@NAME, that the index has
}

// Check looks through a store that nobody has mounted. It writes nothing there, but for the file that it locks.
func Check(dir string) (report Report, err error) {
	err = lookInto(dir, func(o *offline) error {
		report, err = o.check()
		o.checkUntold(&report)
		return err
	})
	return report, damageFound(dir, &report, err)
}

// indexDamage is what makes an index useless.
type indexDamage struct{ error }

func (d indexDamage) Unwrap() error { return d.error }

// damageFound makes damage to the index a finding, with what to do about it.
func damageFound(dir string, report *Report, err error) error {
	var damage indexDamage
	if !errors.As(err, &damage) {
		return err
	}
	object := indexName
	if w, own := ownerOfDamage(dir, damage); own {
		object = w.foreignFile()
	}
	*report = Report{Unread: true, Findings: []Finding{{Object: object, Text: damage.Error() + remedy(dir, damage)}}}
	if w, err := ownerOf(dir); err == nil && !w.unknown && !w.foreignIndex {
		end, _ := findLostEnd(dir, w)
		report.Findings = append(report.Findings, end.signs...)
	}
	return nil
}

// remedy says what to do about damage to the index.
func remedy(dir string, damage error) string {
	owner, err := ownerOf(dir)
	if err != nil {
		return "; whose index it is can't be told: " + err.Error()
	}
	if !owner.unknown && !owner.foreignIndex && !errors.As(damage, new(lostEnd)) {
		if end, found := findLostEnd(dir, owner); found {
			text := "; the index is this store's, but "
			if owner.foreignCounter {
				text = fmt.Sprintf("; %s is that of another store, the index is this one's, but ", commitsName)
			}
			return text + end.Error() + remedy(dir, end)
		}
	}
	if errors.Is(damage, blockmap.ErrNoCounter) {
		return fmt.Sprintf("; `snapfs check %s --repair` makes it anew", dir)
	}
	if foreign := new(*blockmap.ForeignError); errors.As(damage, foreign) {
		switch {
		case owner.unknown:
			return fmt.Sprintf("; nothing tells which of %s, %s and %s is this one's, so that a repair changes nothing: put the right one in its place; if it is %[3]s that is not, remove that, and run `snapfs check %[4]s --repair`",
				commitsName, indexName, formatName, dir)
		case owner.foreignIndex && owner.foreignCounter:
			return fmt.Sprintf("; the index and %s are those of another store", commitsName) + backupRemedy(dir, owner)
		case owner.foreignIndex:
			return "; the index, or that file of it, is that of another store" + backupRemedy(dir, owner)
		}
		return fmt.Sprintf("; %s, the index is this one's: `snapfs check %s --repair` makes that anew", owner.foreignText(), dir)
	}
	if errors.Is(damage, blockmap.ErrDamaged) {
		if b, err := openBeginning(dir); err == nil && b != nil {
			defer b.Close()
			if b.best {
				return fmt.Sprintf("; `snapfs check %s --repair` goes back to before that, to %s", dir, b)
			}
		}
	}
	return backupRemedy(dir, owner)
}

// backupRemedy says which backup there is to go back to.
func backupRemedy(dir string, owner owner) string {
	backups, err := listBackups(dir)
	if err != nil || len(backups) == 0 {
		return "; there is no backup of it in " + filepath.Join(dir, backupName)
	}
	for _, b := range backups {
		if b.verify(owner.identity) == nil {
			return fmt.Sprintf("; `snapfs restore-index %s` goes back to the backup of %s", dir, b.at.Format(time.RFC3339))
		}
	}
	return fmt.Sprintf("; none of the backups of it in %s is sound", filepath.Join(dir, backupName))
}

type check struct {
	Report
	*offline
	files   map[LayerID]bool // data files that are there
	unsound bool             // the catalog contradicts itself
}

func (o *offline) check() (Report, error) {
	k := &check{offline: o, files: make(map[LayerID]bool)}
	k.Findings = []Finding{}
	if k.catalog.store.Restoring {
		k.found(indexName, "its restore from a backup was cut short; run `snapfs restore-index %s` again", o.dir)
	}
	if k.broken != nil {
		k.found(indexName, "its catalog does not hang together: %v%s", k.broken, remedy(o.dir, k.broken))
	}
	k.checkJournal()
	k.checkFormat()
	err := errors.Join(k.checkOlder(), k.listFiles(), k.checkCatalog(), k.checkRecords(), k.checkHoles(), k.checkSums(), k.checkCounter(), k.checkImages())
	if k.unsound {
		k.found(indexName, "its catalog contradicts itself%s", remedy(o.dir, nil))
	}
	slices.SortFunc(k.Findings, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Text, b.Text)) })
	return k.Report, err
}

func (k *check) found(object, format string, args ...any) {
	k.Findings = append(k.Findings, Finding{Object: object, Text: fmt.Sprintf(format, args...)})
}

func (k *check) note(object, format string, args ...any) {
	k.Notes = append(k.Notes, Finding{Object: object, Text: fmt.Sprintf(format, args...)})
}

// contradiction is found for what no repair can set right.
func (k *check) contradiction(object, format string, args ...any) {
	k.unsound = true
	k.found(object, format, args...)
}

// listFiles finds which data files there are, and what lies in the store's directories that does not belong there.
func (k *check) listFiles() error {
	err := k.eachFile(layersName, func(name string, info os.FileInfo) {
		if id, ok := layerOf(name, info); ok {
			k.files[id] = true
		}
	})
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(k.dir, layersName)); errors.Is(err, os.ErrNotExist) {
		k.found(layersName, "is missing, with all data files; unless that can be brought back, a repair goes on without")
	}
	for _, f := range k.foreign {
		finding := Finding{Object: filepath.Join(indexName, f.Name), Text: f.Text + "; the next mount, or a repair, puts it into " + quarantineName}
		if f.Foreign {
			k.Findings = append(k.Findings, finding)
		} else {
			k.Notes = append(k.Notes, finding)
		}
	}
	strays, err := k.strays()
	for _, s := range strays {
		k.found(s.name, "%s", s.text)
	}
	return errors.Join(err, k.noteFiles())
}

func (k *check) checkCatalog() error {
	c := k.catalog
	k.VMs, k.Files, k.Snapshots, k.Layers = len(c.vms), len(c.files), len(c.snapshots), len(c.layers)
	for _, v := range c.vms {
		k.Names = append(k.Names, v.Name)
	}
	for _, n := range c.snapshots {
		k.Names = append(k.Names, c.vms[n.VM].Name+"@"+n.Name)
	}
	for id, l := range c.layers {
		if _, ok := c.lineages[l.Lineage]; !ok {
			k.contradiction(layerName(id), "is of lineage %d, which is missing", l.Lineage)
		}
		if uint64(id) >= c.store.Next {
			k.found(layerName(id), "has an id that was not given out yet")
		}
		if l.HasFile && !k.files[id] {
			k.found(layerName(id), "has lost its data file, with %d blocks", l.Blocks)
		}
	}
	for id, n := range c.lineages {
		if n.Parent == 0 {
			continue
		}
		if below, ok := c.layers[n.Branch]; !ok || below.Lineage != n.Parent {
			k.contradiction(fmt.Sprintf("lineage %d", id), "grew from %s of lineage %d, which is missing", layerName(n.Branch), n.Parent)
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
			k.contradiction(object, "needs %s, which is missing", layerName(id))
		}
		if other, taken := owners[id]; taken {
			k.contradiction(object, "has %s, which %s has too", layerName(id), other)
		}
		owners[id] = object
	}
	names := make(map[string]FileID)
	for _, id := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[id]
		object := fmt.Sprintf("%s/%s", c.vms[f.VM].Name, f.Name)
		if !f.Unlinked { // one that is was open, perhaps longer than its VM was there; the start removes it
			if _, ok := c.vms[f.VM]; !ok {
				k.contradiction(object, "is of VM %d, which is missing", f.VM)
			}
			if other, taken := names[object]; taken {
				k.contradiction(object, "is the name of files %d and %d", id, other)
			}
			names[object] = id
		}
		own(object, f.Head)
	}
	for _, id := range slices.Sorted(maps.Keys(c.snapshots)) {
		n := c.snapshots[id]
		for _, e := range n.Files {
			own(fmt.Sprintf("%s@%s/%s", c.vms[n.VM].Name, n.Name, e.Name), e.Layer)
		}
		if _, ok := c.vms[n.VM]; !ok {
			k.contradiction("snapshot "+n.Name, "is of VM %d, which is missing", n.VM)
		}
		if _, ok := c.snapshots[n.Parent]; n.Parent != 0 && !ok {
			k.found(c.vms[n.VM].Name+"@"+n.Name, "grew from snapshot %d, which is missing", n.Parent)
		}
	}
}

// layerName is a layer's data file, by its path in the store.
func layerName(id LayerID) string { return filepath.Join(layersName, fileName(id)) }

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
				k.contradiction(fmt.Sprintf("lineage %d", id), "%v", err)
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
		k.contradiction(layerName(id), "has a record in lineage %d, of which it is not", lin)
		return nil
	}
	touched, err := tx.Get(regionKey(tableTouched, id, region))
	if err != nil {
		return err
	}
	if touched == nil {
		k.found(layerName(id), "has a record of region %d that is not listed", region)
	}
	return nil
}

// checkHoles finds blocks that layers hold and their data files do not: they would read as zeros. What is noted as lost
// is told of those who would read it.
func (k *check) checkHoles() error {
	if k.tree == nil {
		return nil // that it does not hang together is found
	}
	fresh := make(map[LayerID]lostBlocks)
	for id := range k.files {
		l := k.tree.layer(id)
		if l == nil {
			continue
		}
		holes, err := k.holes(l)
		if err != nil {
			return err
		}
		for region, blocks := range holes {
			l.lost.without(region, blocks)
		}
		if lost := holes.ranges(); len(lost) > 0 {
			fresh[id] = holes
			k.found(layerName(id), "the data file has lost blocks %s of what the layer holds", rangesText(lost))
			k.Findings[len(k.Findings)-1].Ranges = inBytes(lost)
		}
	}
	for id, l := range k.catalog.layers {
		if l.HasFile && !k.files[id] && k.tree.layer(id) != nil {
			holes, err := k.holes(k.tree.layer(id)) // that it has no data file is found
			if err != nil {
				return err
			}
			for region, blocks := range holes {
				k.tree.layer(id).lost.without(region, blocks)
			}
			fresh[id] = holes
		}
	}
	if err := k.noteReaders(fresh); err != nil {
		return err
	}
	losses, err := k.losses()
	for _, l := range losses {
		k.Findings = append(k.Findings, l.finding())
	}
	return err
}

// noteReaders names those whom blocks strike that are lost, and not noted as such yet.
func (k *check) noteReaders(fresh map[LayerID]lostBlocks) error {
	c, t := *k.catalog, newTree()
	c.lost = fresh
	if err := t.load(&c); err != nil {
		return err
	}
	losses, err := (&offline{dir: k.dir, index: k.index, catalog: &c, tree: t}).losses()
	for _, l := range losses {
		k.Notes = append(k.Notes, Finding{Object: l.name, Ranges: l.ranges, Text: fmt.Sprintf("has lost %s with that: bytes %s; what of it does not read as an error yet, but as zeros, does after `snapfs check %s --repair`",
			bytesText(l.bytes()), rangesText(l.ranges), k.dir)})
	}
	return err
}
