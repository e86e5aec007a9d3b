package blockmap

// This file holds what a shrink of a disk does to changes that are not committed yet.

// Truncate forgets what is known of blocks from block up, a block of the whole disk. No commit may be under way.
func (d *Dirty) Truncate(block uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun {
		panic("blockmap: Truncate of a Dirty that is being committed")
	}
	for region, delta := range d.current {
		base := region * RegionBlocks
		if base+RegionBlocks <= block {
			continue
		}
		from := 0
		if block > base {
			from = int(block - base)
		}
		delta.forget(from)
		d.current[region] = delta
		if delta.empty() {
			delete(d.current, region)
		}
	}
}
