package layer

// Checking and mending what lies beside the index: the layers' checksums, as far as that is seen without reading the data,
// and the counter of commits.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/snapfs/snapfs/blockmap"
)

// sumsDamage says what is wrong with a layer's file of checksums; empty: nothing that shows.
func (o *offline) sumsDamage(l *layer) (what string, err error) {
	info, err := os.Lstat(o.path(sumsName, l.id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "lost", nil
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "lost, and something else is in their place", nil
	}
	need := int64(0)
	err = o.records(l, func(region uint64, r *blockmap.Record) error {
		r.Data.Runs(func(_, to int) { need = max(need, (int64(region)*blockmap.RegionBlocks+int64(to))*sumSize) })
		return nil
	})
	if info.Size() < need {
		what = fmt.Sprintf("cut short: %d bytes of %d are there", info.Size(), need)
	}
	return what, err
}

// eachDamagedSums calls fn for each layer whose checksums are lost.
func (o *offline) eachDamagedSums(fn func(id LayerID, what string)) error {
	for id, r := range o.catalog.layers {
		if !r.Summed {
			continue
		}
		what, err := o.sumsDamage(o.tree.layer(id))
		if err != nil {
			return err
		}
		if what != "" {
			fn(id, what)
		}
	}
	return nil
}

func (k *check) checkSums() error {
	if k.tree == nil {
		return nil // that it does not hang together is found
	}
	return k.eachDamagedSums(func(id LayerID, what string) {
		k.found(layerName(id), "its checksums are %s; `snapfs check %s --repair` has them made anew", what, k.dir)
	})
}

// dropSums has checksums made again where they are lost.
func (m *mender) dropSums() error {
	var lost []LayerID
	err := m.eachDamagedSums(func(id LayerID, what string) {
		lost = append(lost, id)
		m.did(layerName(id), "its checksums are %s; they will be made anew of what it holds now", what)
	})
	if err != nil {
		return err
	}
	return inSteps(m.index, lost, func(tx *blockmap.Tx, id LayerID) error {
		return edit(tx, catalogKey(tableLayer, id), func(r *layerRecord) { r.Summed = false })
	})
}

// counterDamage says what is wrong with a counter of commits of which one part still counts; empty: nothing.
func (o *offline) counterDamage() (string, error) {
	at, err := blockmap.DamagedSlot(filepath.Join(o.dir, commitsName))
	if err != nil || at < 0 {
		return "", err
	}
	return fmt.Sprintf("is damaged at byte %d, or cut short there", at), nil
}

func (k *check) checkCounter() error {
	what, err := k.counterDamage()
	if what != "" {
		k.found(commitsName, "%s; its other part counts, and `snapfs check %s --repair` makes it whole", what, k.dir)
	}
	return err
}

// mendCounter has both parts written anew: commits write them in turn.
func (m *mender) mendCounter() error {
	what, err := m.counterDamage()
	if err != nil || what == "" {
		return err
	}
	for range 2 {
		err := m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			return edit(tx, []byte{tableMeta}, func(*storeRecord) {})
		})
		if err != nil {
			return commitError(err)
		}
	}
	m.did(commitsName, "%s; its other part counted, and it is whole again", what)
	return nil
}
