package blockmap

// This file finds where in a sparse disk there is anything at all, without looking at each region.

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// NextRegion returns the first region from region up in which some layer of the chain may say something, as far as it is
// committed; ok is false if there is none. It costs a seek for each lineage of the chain.
func (x *Index) NextRegion(c *Chain, region uint64) (next uint64, ok bool, err error) {
	err = x.View(func(t *Tx) error {
		for _, s := range c.Segments {
			found, there, err := t.nextRegion(s.Lineage, region)
			if err != nil {
				return fmt.Errorf("find the next region: %w", err)
			}
			if there && (!ok || found < next) {
				next, ok = found, true
			}
		}
		return nil
	})
	return next, ok, err
}

// nextRegion returns the first region from region up in which the lineage has a committed record.
func (t *Tx) nextRegion(l LineageID, region uint64) (next uint64, ok bool, err error) {
	// With a prefix the iterator does not wander through what was deleted of the lineages behind.
	it := t.base.NewIterator(badger.IteratorOptions{Prefix: lineageKey(nil, l)})
	defer it.Close()
	it.Seek(regionKey(nil, l, region))
	if !it.Valid() {
		return 0, false, nil
	}
	next, _, err = parseRecordKey(it.Item().Key())
	return next, err == nil, err
}

// NextRegion returns the first region from region up in which something is uncommitted; ok is false if there is none.
func (d *Dirty) NextRegion(region uint64) (next uint64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, generation := range []Changes{d.current, d.committing} {
		for r := range generation {
			if r >= region && (!ok || r < next) {
				next, ok = r, true
			}
		}
	}
	return next, ok
}
