package blockmap

// This file resolves a region of a chain from the index.

import "fmt"

// Resolve finds the owner of every block of a region, as seen through chain c. The overlay holds uncommitted deltas of
// layers of the chain, by falling id: each applies on top of what the index says of its layer. The first layer that decides
// a block wins, and reading ends when all are decided.
func (x *Index) Resolve(c *Chain, region uint64, overlay []LayerDelta, out *Owners) error {
	r := newResolver(region, c.Cuts, overlay, out)
	err := x.View(func(t *Tx) error {
		for _, s := range c.Segments {
			if err := t.RegionRecords(s.Lineage, region, s.Top, r.add); err != nil {
				return err
			}
			if r.open.Empty() {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("resolve region %d: %w", region, err)
	}
	r.finish()
	return nil
}
