package main

// Groups of loads on disks: what guests do all day.

import "slices"

// reads are at all depths in turn, and the peers at depth 0 once more, more often: those are near each other.
func (b *bench) reads() {
	deep := slices.Concat(b.disks.targets(b.depths), b.disks.images(b.depths))
	flat := slices.DeleteFunc(slices.Clone(deep), func(at target) bool { return at.depth > 0 })
	deep = slices.DeleteFunc(deep, func(at target) bool { return at.depth == 0 })
	flat = b.compared(flat)
	var all []comparison
	for _, queue := range b.queues {
		all = append(all, comparison{flat, small("randread", queue), b.closely})
		if slices.Contains(b.deepQueues, queue) {
			all = append(all, comparison{targets: deep, load: small("randread", queue)})
		}
	}
	all = append(all, comparison{targets: flat, load: sequential("read")})
	if len(b.deepQueues) > 1 {
		all = append(all, comparison{targets: deep, load: sequential("read")})
	}
	b.compare(all...)
}

// depth is what many snapshots cost: the deepest disk and the one without any take turns, with nobody in between.
func (b *bench) depth() {
	targets := only(b.disks.targets(b.ends()), snapfs, before)
	var all []comparison
	for _, queue := range []int{1, 16} {
		all = append(all, comparison{targets, small("randread", queue), b.veryClosely()})
	}
	b.compare(all...)
}

// ends are the depths that it compares.
func (f form) ends() []int { return []int{slices.Min(f.depths), slices.Max(f.depths)} }

// writes are put on disks just after a snapshot, and on such as were written to all over since. They change where
// a disk's blocks lie, and take room, so depths take their turn one after the other, and none comes back.
func (b *bench) writes() {
	b.progress.split(len(b.writeDepths))
	for i, depth := range b.writeDepths {
		if i > 0 {
			b.progress.next()
		}
		queues, rounds := b.writeQueues, b.closely
		if depth > 0 {
			queues, rounds = b.deepWriteQueues, b.rounds
		}
		targets := b.compared(b.disks.writable(depth))
		var fresh, settled []comparison
		for _, l := range b.writeLoads(queues) {
			fresh = append(fresh, comparison{targets: snapshotted(targets), load: l.after()})
			settled = append(settled, comparison{targets, l, rounds})
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
		all = append(all, comparison{targets: targets, load: small(rw, 1).by("psync")})
		for _, queue := range b.queues {
			all = append(all, comparison{targets: targets, load: small(rw, queue).by("io_uring")})
		}
	}
	all = append(all, comparison{targets: targets, load: sequential("read").by("io_uring")})
	b.compare(append(all, comparison{targets: targets, load: sequential("write").by("io_uring")})...)
}

// synced is what a guest's database does: each write is followed by an fdatasync. A file on the host, which knows no
// snapshot, is measured beside the first writes after one all the same.
func (b *bench) synced() {
	all := without(b.disks.writable(0), qsdRaw)
	alone, many := without(all, loopback), without(all, qcow2) // qemu-img has but one writer
	fleet := b.fleets(8)
	b.settle(append(slices.Clone(all), fleet...))
	qemu := b.disks.throughQEMU(all)
	for _, c := range []comparison{{alone, synced(1), b.veryClosely()}, {many, synced(8), b.rounds}, {qemu, grouped(8), b.rounds}, {fleet, synced(8).each(), b.rounds}} {
		b.compare(c, comparison{c.targets, c.load.after(), c.rounds})
	}
}

// compared leaves out what is no peer, but a limit, where the form does without.
func (b *bench) compared(targets []target) []target {
	if b.limits {
		return targets
	}
	return without(targets, raw, loopback)
}

// without leaves out some peers.
func without(targets []target, who ...peer) []target {
	return slices.DeleteFunc(slices.Clone(targets), func(at target) bool { return slices.Contains(who, at.peer) })
}

// only leaves some peers.
func only(targets []target, who ...peer) []target {
	return slices.DeleteFunc(slices.Clone(targets), func(at target) bool { return !slices.Contains(who, at.peer) })
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
