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
// a disk's blocks lie, and take room, so depths take their turn one after the other, and none comes back.
func (b *bench) writes() {
	for _, depth := range b.writeDepths {
		targets := b.disks.writable(depth)
		var fresh, settled []comparison
		for _, l := range b.writeLoads(b.writeQueues) {
			fresh = append(fresh, comparison{snapshotted(targets), l.after()})
		}
		queues := b.writeQueues
		if depth > 0 {
			queues = b.deepWriteQueues
		}
		for _, l := range b.writeLoads(queues) {
			settled = append(settled, comparison{targets, l})
		}
		b.compare(fresh...)
		b.settle(targets)
		b.compare(settled...)
		b.disks.drop(depth)
	}
}

func (b *bench) writeLoads(queues []int) (all []load) {
	for _, queue := range queues {
		all = append(all, small("randwrite", queue))
		if b.mixed {
			all = append(all, small("randrw", queue))
		}
	}
	return append(all, sequential("write"))
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

// synced is what a guest's database does: each write is followed by an fdatasync. A file on the host, which knows no
// snapshot, is measured beside the first writes after one all the same.
func (b *bench) synced() {
	alone := without(b.disks.writable(0), loopback, qsdRaw)
	many := without(alone, qcow2) // qemu-img has but one writer
	b.settle(alone)
	b.compare(comparison{alone, synced(1)}, comparison{alone, synced(1).after()}, comparison{many, synced(8)}, comparison{many, synced(8).after()})
}

// without leaves out some peers.
func without(targets []target, who ...peer) []target {
	return slices.DeleteFunc(slices.Clone(targets), func(at target) bool { return slices.Contains(who, at.peer) })
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
