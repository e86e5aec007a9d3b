package main

// Groups of loads on disks: what guests do all day.

import "slices"

// reads are at all depths in turn, so that depths can be compared as well as peers.
func (b *bench) reads() {
	deep := slices.Concat(b.disks.targets(b.depths), b.disks.images(b.depths))
	flat := slices.DeleteFunc(slices.Clone(deep), func(at target) bool { return at.depth > 0 })
	var all []comparison
	for _, queue := range b.queues {
		targets := flat
		if slices.Contains(b.deepQueues, queue) {
			targets = deep
		}
		all = append(all, comparison{targets, small("randread", queue)})
	}
	targets := flat
	if len(b.deepQueues) > 1 {
		targets = deep
	}
	b.compare(append(all, comparison{targets, sequential("read")})...)
}

// writes are put on disks just after a snapshot, and on such as were written to all over since. They change where
// a disk's blocks lie, so depths take their turn one after the other, and none comes back.
func (b *bench) writes() {
	for _, depth := range b.writeDepths {
		targets := b.disks.writable(depth)
		var fresh, settled []comparison
		for _, rw := range []string{"randwrite", "randrw", "write"} {
			for _, l := range b.writeLoads(rw) {
				settled = append(settled, comparison{targets, l})
				fresh = append(fresh, comparison{snapshotted(targets), l.after()})
			}
		}
		b.compare(fresh...)
		b.settle(targets)
		b.compare(settled...)
	}
}

func (b *bench) writeLoads(rw string) (all []load) {
	if rw == "write" {
		return []load{sequential(rw)}
	}
	for _, queue := range b.queues {
		all = append(all, small(rw, queue))
	}
	return all
}

// engines are other ways to ask than libaio, at depth 0.
func (b *bench) engines() {
	targets := b.disks.targets([]int{0})
	b.settle(targets)
	var all []comparison
	for _, rw := range []string{"randread", "randwrite"} {
		all = append(all, comparison{targets, small(rw, 1).by("psync")})
		for _, queue := range b.queues {
			all = append(all, comparison{targets, small(rw, queue).by("io_uring")})
		}
	}
	all = append(all, comparison{targets, sequential("read").by("io_uring")})
	b.compare(append(all, comparison{targets, sequential("write").by("io_uring")})...)
}

// synced is what a guest's database does: each write is followed by an fdatasync. Files on the host, which know no snapshot, are
// measured beside the first writes after one all the same.
func (b *bench) synced() {
	targets := b.disks.writable(0)
	b.settle(targets)
	var all []comparison
	for _, writers := range []int{1, 8} {
		l := synced(writers)
		at := targets
		if writers > 1 {
			at = slices.DeleteFunc(slices.Clone(targets), func(at target) bool { return at.peer == qcow2 || at.peer == qcow2Cache })
		}
		all = append(all, comparison{at, l}, comparison{at, l.after()})
	}
	b.compare(all...)
}

// settle writes disks all over, so that nothing below their newest layer shows.
func (b *bench) settle(targets []target) {
	b.plan(len(targets))
	for _, at := range targets {
		b.step("filling " + string(at.peer))
		at.fill()
	}
	b.writeBack()
}

// snapshotted are those targets that know snapshots.
func snapshotted(targets []target) []target {
	return slices.DeleteFunc(slices.Clone(targets), func(at target) bool { return at.snapshot == nil })
}
