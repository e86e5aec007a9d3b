package layer

// Usage: what deleting a snapshot would give back. It is found out by reading the records of the snapshot's layers and
// of those right over them, so in the background, and not again right away.

import (
	"errors"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// List describes the VM's snapshots, oldest first, with what deleting each would give back as far as that is known at
// the given time.
func (v *VM) List(until time.Time) []SnapshotInfo {
	unique, _ := v.usage.get(time.Until(until), v.store.work.start, v.findUsage)
	list := []SnapshotInfo{}
	for _, n := range v.Snapshots() {
		info := n.Info()
		if bytes, known := unique[n.id]; known {
			shared := -bytes
			for _, f := range info.Files {
				shared += f.Allocated
			}
			shared = max(0, shared)
			info.Unique, info.Shared = &bytes, &shared
		}
		list = append(list, info)
	}
	return list
}

var errClosing = errors.New("the store is being closed")

// findUsage measures all snapshots of the VM; of the store's VMs, one at a time.
func (v *VM) findUsage() (map[SnapshotID]int64, error) {
	v.store.measuring.Lock()
	defer v.store.measuring.Unlock()
	usage := make(map[SnapshotID]int64)
	for _, n := range v.Snapshots() {
		bytes, err := n.unique()
		if err != nil {
			return nil, err
		}
		usage[n.id] = bytes
	}
	return usage, nil
}

// unique is how many bytes of data nobody would see any more without the snapshot.
func (n *Snapshot) unique() (bytes int64, err error) {
	t := n.vm.store.tree
	for _, e := range n.Files {
		// Below its own layer lie retired ones that perhaps nobody else sees.
		for l := t.layer(e.Layer); l != nil; {
			blocks, err := n.uniqueIn(l)
			if err != nil {
				return 0, err
			}
			bytes += blocks * blockSize
			t.RLock()
			if l = t.belowLocked(l); l != nil && l.liveLocked() {
				l = nil
			}
			t.RUnlock()
		}
	}
	return bytes, nil
}

// uniqueIn counts the blocks of data of a layer that only the snapshot sees.
func (n *Snapshot) uniqueIn(l *layer) (blocks int64, err error) {
	s := n.vm.store
	for next := uint64(0); ; {
		select {
		case <-s.stop:
			return 0, errClosing
		default:
		}
		var regions []uint64
		err := s.index.View(func(tx *blockmap.Tx) (err error) {
			if regions, err = touchedFrom(tx, l, next, regionsAtOnce); err != nil {
				return err
			}
			for _, region := range regions {
				only, err := n.uniqueInRegion(tx, l, region)
				if err != nil {
					return err
				}
				blocks += int64(only)
			}
			return nil
		})
		if err != nil || len(regions) == 0 {
			return blocks, err
		}
		next = regions[len(regions)-1] + 1
	}
}

func (n *Snapshot) uniqueInRegion(tx *blockmap.Tx, l *layer, region uint64) (int, error) {
	t := n.vm.store.tree
	t.RLock()
	defer t.RUnlock()
	rec, err := l.recordLocked(tx, region)
	if err != nil || rec.Data.Empty() {
		return 0, err
	}
	seen := rec.Data
	if !l.liveLocked() { // what nobody sees is given back anyway
		if seen, err = (readers{tree: t, tx: tx}).neededLocked(l, region, seen); err != nil {
			return 0, err
		}
	}
	needed, err := readers{tree: t, tx: tx, without: n}.neededLocked(l, region, seen)
	seen.AndNot(&needed)
	return seen.Count(), err
}
