package layer

// Loading: from the catalog to what is in memory, and setting right what a crash left half done.

import (
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// catalog is everything the index says, but for the blocks.
type catalog struct {
	store     storeRecord
	vms       map[VMID]vmRecord
	files     map[FileID]fileRecord
	lineages  map[lineageID]lineageRecord
	layers    map[LayerID]layerRecord
	snapshots map[SnapshotID]snapshotRecord
	prepared  map[VMID]preparedRecord
	policies  map[VMID]Policy
	growth    map[VMID]growthRecord
	images    map[imageID]imageRecord
	punches   []punch
	unlinks   []LayerID
	lost      map[LayerID]lostBlocks
}

func readCatalog(x *blockmap.Index) (*catalog, error) {
	c := &catalog{
		vms: map[VMID]vmRecord{}, files: map[FileID]fileRecord{}, lineages: map[lineageID]lineageRecord{},
		layers: map[LayerID]layerRecord{}, snapshots: map[SnapshotID]snapshotRecord{}, prepared: map[VMID]preparedRecord{},
		policies: map[VMID]Policy{}, growth: map[VMID]growthRecord{}, images: map[imageID]imageRecord{},
		lost: map[LayerID]lostBlocks{},
	}
	err := x.View(func(tx *blockmap.Tx) error {
		value, err := tx.Get([]byte{tableMeta})
		if err != nil || value == nil {
			return err
		}
		if c.store, err = decode[storeRecord]([]byte{tableMeta}, value); err != nil {
			return err
		}
		return errorOf(
			scanInto(tx, tableVM, c.vms), scanInto(tx, tableFile, c.files), scanInto(tx, tableLineage, c.lineages),
			scanInto(tx, tableLayer, c.layers), scanInto(tx, tableSnapshot, c.snapshots),
			scanInto(tx, tablePrepared, c.prepared), scanInto(tx, tablePolicy, c.policies), scanInto(tx, tableGrowth, c.growth),
			scanInto(tx, tableImage, c.images), c.readPunches(tx), c.readUnlinks(tx), c.readLost(tx))
	})
	if err != nil {
		return nil, Errorf(syscall.EIO, "read the catalog: %w", err)
	}
	return c, nil
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func scanInto[ID ~uint64, R any](tx *blockmap.Tx, table byte, into map[ID]R) error {
	return scan(tx, table, func(id uint64, record R) error {
		into[ID(id)] = record
		return nil
	})
}

func (c *catalog) readPunches(tx *blockmap.Tx) error {
	return tx.Scan([]byte{tablePunch}, func(key, value []byte) error {
		p, err := decodePunch(key, value)
		if err != nil {
			return err
		}
		c.punches = append(c.punches, p)
		return nil
	})
}

func (c *catalog) readUnlinks(tx *blockmap.Tx) error {
	return tx.Scan([]byte{tableUnlink}, func(key, _ []byte) error {
		id, err := keyID(key, 0)
		if err != nil {
			return err
		}
		c.unlinks = append(c.unlinks, LayerID(id))
		return nil
	})
}

func (c *catalog) readLost(tx *blockmap.Tx) error {
	return tx.Scan([]byte{tableLost}, func(key, value []byte) error {
		id, region, blocks, err := decodeLost(key, value)
		if err != nil {
			return err
		}
		if c.lost[id] == nil {
			c.lost[id] = make(lostBlocks)
		}
		c.lost[id][region] = blocks
		return nil
	})
}

// load brings the catalog into memory. What is unsound is refused, not repaired.
func (s *Store) load() error {
	c, err := readCatalog(s.index)
	if err != nil {
		return Errorf(syscall.EIO, "%w%s", err, remedy(s.dir, err))
	}
	if c.store.ID == "" {
		c.store = newStoreRecord()
		if err := s.update(func(tx *blockmap.Tx) error { put(tx, []byte{tableMeta}, c.store); return nil }); err != nil {
			return err
		}
	}
	if err := s.refuseRestored(c.store); err != nil {
		return err
	}
	if err := s.refuseOlder(c); err != nil {
		return err
	}
	if err := s.refuseBehind(c.store); err != nil {
		return err
	}
	s.id = c.store.ID
	s.next.Store(c.store.Next)
	records, release, err := s.readJournal(c)
	if err != nil {
		return err
	}
	defer release()
	if err := s.undoPrepared(c); err != nil {
		return err
	}
	for _, step := range []func(*catalog) error{s.loadTree, s.loadStrays, s.loadVMs, s.loadSnapshots, s.loadImages, s.loadFiles} {
		if err := step(c); err != nil {
			return Errorf(syscall.EIO, "the catalog of store %s is damaged: %w%s", s.dir, err, remedy(s.dir, err))
		}
	}
	if err := s.refuseShort(c); err != nil {
		return err
	}
	if s.resumes {
		if err := s.resume(c); err != nil {
			return err
		}
	}
	if err := s.resumeJournal(c, records); err != nil {
		return err
	}
	s.logUntold(c.store)
	if err := s.logLost(c); err != nil {
		return err
	}
	if err := s.loadRequests(); err != nil {
		return err
	}
	s.clearVoids()
	s.reclaim.resume(c)
	return nil
}

// undoPrepared takes away heads that were being made. Nothing above the old heads was ever flushed, so the old heads
// are still the files' state; unless a worker before this one had guests go on with the new ones.
func (s *Store) undoPrepared(c *catalog) error {
	for vm, p := range c.prepared {
		if s.resumes && s.inUse(vm, p) {
			continue
		}
		delete(c.prepared, vm)
		err := s.update(func(tx *blockmap.Tx) error {
			tx.Delete(catalogKey(tablePrepared, vm))
			dropPrepared(tx, p)
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range p.Layers {
			delete(c.layers, id)
			c.unlinks = append(c.unlinks, id)
		}
		for _, id := range p.Lineages {
			delete(c.lineages, id)
		}
		s.opts.Event(c.vms[vm].Name, "undone", "what", "an operation that a crash cut short")
	}
	return nil
}

func dropPrepared(tx *blockmap.Tx, p preparedRecord) {
	if p.ID != 0 {
		tx.Delete(catalogKey(tableMachine, p.ID))
	}
	for _, id := range p.Layers {
		tx.Delete(catalogKey(tableLayer, id))
		tx.Put(catalogKey(tableUnlink, id), nil)
	}
	for _, id := range p.Lineages {
		tx.Delete(catalogKey(tableLineage, id))
	}
}

func (s *Store) loadTree(c *catalog) error {
	if err := s.tree.load(c); err != nil {
		return err
	}
	for id, r := range c.layers {
		if r.Log != nil && r.Log.Session == s.session.header.id {
			s.tree.layer(id).logged = r.Log.At
		}
	}
	return nil
}

// load puts all layers and lineages of a catalog into the tree.
func (t *tree) load(c *catalog) error {
	for id := range c.lineages {
		t.lineages[id] = &lineage{id: id}
	}
	ids := make([]LayerID, 0, len(c.layers))
	for id := range c.layers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		r := c.layers[id]
		n := t.lineages[r.Lineage]
		if n == nil {
			return fmt.Errorf("%s is of lineage %d, which is missing", layerName(id), r.Lineage)
		}
		l := &layer{id: id, file: r.File, lineage: n, created: r.Created, cut: noCut, void: noCut, lost: c.lost[id]}
		l.blocks.Store(r.Blocks)
		l.summed.Store(r.Summed)
		l.hasFile.Store(r.HasFile || r.Blocks > 0) // what holds blocks has a file: never made anew, never removed
		if r.Cut != nil {
			t.cutLocked(l, *r.Cut)
		}
		if r.Void != nil {
			l.void = *r.Void
		}
		t.addLocked(l)
	}
	for id, r := range c.lineages {
		if r.Parent == 0 {
			continue
		}
		n, parent := t.lineages[id], t.lineages[r.Parent]
		if parent == nil {
			return fmt.Errorf("lineage %d grew from lineage %d, which is missing", id, r.Parent)
		}
		n.parent, n.branch, n.into, n.moving = parent, r.Branch, r.Into, r.Into
		below := t.branchLocked(n)
		if below == nil {
			return fmt.Errorf("lineage %d grew from %s, which is missing", id, layerName(r.Branch))
		}
		below.grown = append(below.grown, n)
	}
	return nil
}

// loadStrays looks for data files of layers that the index says have none: nothing in them was ever flushed. A worker
// that takes over goes on with them, a start removes them. A file that the catalog does not know at all is left alone.
func (s *Store) loadStrays(*catalog) error {
	entries, err := readDir(s.data.dir)
	if err != nil {
		return err
	}
	dropped := false
	for _, entry := range entries {
		id, err := strconv.ParseUint(entry.Name(), 16, 64)
		if err != nil {
			continue
		}
		l := s.tree.layer(LayerID(id))
		switch {
		case l == nil || l.hasFile.Load():
		case s.resumes:
			l.stray = true
		default:
			if err := s.data.unlinkID(l.id); err != nil {
				return err
			}
			dropped = true
		}
	}
	if dropped {
		return s.data.syncDir() // or a power loss brings back one whose layer has left by then
	}
	return nil
}

func (s *Store) loadVMs(c *catalog) error {
	for id, r := range c.vms {
		v := newVM(s, id, r.Name, r.Attr)
		v.head, v.preview, v.samples = r.Head, r.Preview, c.growth[id].Samples
		if p, ok := c.policies[id]; ok {
			v.policy = p
		}
		if other := s.vmsByName[r.Name]; other != nil {
			return fmt.Errorf("VMs %d and %d have the same name %q", id, other.id, r.Name)
		}
		if err := v.openLog(); err != nil {
			return err
		}
		s.vmsByName[r.Name] = v
		s.vms.Store(id, v)
	}
	return nil
}

func (s *Store) loadSnapshots(c *catalog) error {
	for id, r := range c.snapshots {
		v, err := s.VMByID(r.VM)
		if err != nil {
			return fmt.Errorf("snapshot %q is of VM %d, which is missing", r.Name, r.VM)
		}
		n := &Snapshot{id: id, vm: v, snapshotRecord: r, state: StateReady}
		for i := range r.Files {
			l := s.tree.layer(r.Files[i].Layer)
			if l == nil {
				return fmt.Errorf("snapshot %q of VM %q has file %q in %s, which is missing", r.Name, v.name, r.Files[i].Name, layerName(r.Files[i].Layer))
			}
			l.snap = n
		}
		v.addSnapshot(n)
	}
	return nil
}

func (s *Store) loadFiles(c *catalog) error {
	open := s.openIDs()
	s.ghosts = make(map[VMID]*VM)
	for id, r := range c.files {
		if r.Unlinked && !open[id] {
			if err := s.update(func(tx *blockmap.Tx) error { tx.Delete(catalogKey(tableFile, id)); return nil }); err != nil {
				return err
			}
			continue
		}
		v, err := s.vmOf(id, r)
		if err != nil {
			return err
		}
		head := s.tree.layer(r.Head)
		if head == nil || head.snap != nil || head.owner != nil {
			return fmt.Errorf("file %q of VM %q has head %s, which is missing or not its own", r.Name, v.name, layerName(r.Head))
		}
		f := newFile(v, id, r)
		f.setHead(head, nil)
		if !r.Unlinked {
			v.files[r.Name] = f
		}
	}
	return nil
}

// vmOf finds the VM of a file. An open one may have outlived its VM.
func (s *Store) vmOf(id FileID, r fileRecord) (*VM, error) {
	v, err := s.VMByID(r.VM)
	switch {
	case err == nil:
		return v, nil
	case !r.Unlinked:
		return nil, fmt.Errorf("file %q is of VM %d, which is missing", r.Name, r.VM)
	case s.ghosts[r.VM] == nil:
		v = newVM(s, r.VM, fmt.Sprintf("removed VM %d", r.VM), attrRecord{})
		v.gone = true
		s.ghosts[r.VM] = v
		return v, v.openLog()
	}
	return s.ghosts[r.VM], nil
}

// clearVoids goes on clearing behind cuts.
func (s *Store) clearVoids() {
	s.files.Range(func(f *File) bool {
		if head := f.state.Load().head; head.void != noCut {
			f.startVoiding(head)
		}
		return true
	})
}
