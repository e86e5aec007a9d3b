package main

// Forms of the benchmark: how much of it is done, and for how long.

import (
	"slices"
	"time"
)

// form is how much is done.
type form struct {
	name       string
	groups     []string       // nil: all
	size       int64          // of a disk, a power of two
	rounds     int            // of each comparison
	closely    int            // of those where little decides
	troubles   int            // of those that take long: between neighbours, and deletions
	each       time.Duration  // a load on a target, once
	limit      time.Duration  // for all of it, if all groups are measured; 0: none
	cached     bool           // qemu-img bench through the page cache, too
	limits     bool           // what no peer can pass: a raw file and a bare loopback, in all reads and writes
	peerDepths map[peer][]int // at which depths a peer is measured; nil, or none for a peer: at all

	depths          []int // how many snapshots the disks that are read have
	queues          []int // queue depths at depth 0
	deepQueues      []int // at the others
	mixed           bool  // reads and writes together, too
	writeQueues     []int // of writes
	deepWriteQueues []int // at the other depths than 0
	writeDepths     []int // those of depths at which disks are written to as well

	dirty     []int64 // unflushed bytes when a snapshot is taken
	sizes     []int64 // of the disks without snapshots of which some are taken
	snapshots int     // how many, of each
	pauseDeep int     // how many one of 1 TiB has, to compare them with

	flushed     int64 // bytes that a VM writes and flushes beside another one
	own         int64 // bytes of the snapshot that is deleted
	clones      int
	chain       int // snapshots of the store that is compared with a chain of qcow2
	catalog     int // and of larger ones
	hosts       int // VMs of the largest
	scattered   int // blocks written all over a disk of 1 TiB
	resolveTime time.Duration
}

// quick is what the goals want, and little more.
var quick = form{
	name: "quick", size: 128 * mib, rounds: 3, closely: 3, troubles: 1, each: 200 * time.Millisecond,
	groups:     []string{"resolution", "reads", "depth", "writes", "synced", "pauses", "deletes", "clones", "opens", "memory"},
	peerDepths: map[peer][]int{qsdQcow2: {0, 60, 500}, qcow2: {1, 100}, reflink: {0, noDepth}, reflinkBtrfs: {noDepth}},
	depths:     []int{0, 1, 60, 100, 500, 1000}, queues: []int{1, 16}, deepQueues: []int{16}, writeQueues: []int{16}, deepWriteQueues: []int{16}, writeDepths: []int{0},
	dirty: []int64{0}, sizes: []int64{gib}, snapshots: 10, pauseDeep: 50,
	own: 256 * mib, clones: 10, chain: 100, catalog: 1000, hosts: 1, scattered: 20_000, resolveTime: 10 * time.Millisecond,
}

var full = form{
	name: "full", size: 512 * mib, rounds: 3, closely: 5, troubles: 3, each: 500 * time.Millisecond, limit: 55 * time.Minute, cached: true, limits: true, mixed: true,
	peerDepths: map[peer][]int{reflink: {0, noDepth}, reflinkBtrfs: {0, noDepth}}, // copies of copies take minutes to make
	depths:     []int{0, 1, 10, 60, 100, 300, 500, 1000}, queues: []int{1, 4, 16, 64}, deepQueues: []int{1, 4, 16, 64},
	writeQueues: []int{1, 4, 16, 64}, deepWriteQueues: []int{1, 16}, writeDepths: []int{0, 1, 10, 100, 300, 1000},
	dirty: []int64{0, 4 * gib}, sizes: []int64{gib, 100 * gib, tib}, snapshots: 60, pauseDeep: 300,
	flushed: 4 * gib, own: gib, clones: 100, chain: maxQcow2Depth, catalog: 1000, hosts: 50, scattered: 1_000_000, resolveTime: 200 * time.Millisecond,
}

// tiny is enough to see that everything works.
var tiny = form{
	name: "tiny", size: 4 * mib, rounds: 1, closely: 1, troubles: 1, each: 50 * time.Millisecond, cached: true, limits: true, mixed: true,
	depths: []int{0, 1, 3}, queues: []int{1, 16}, deepQueues: []int{16}, writeQueues: []int{16}, deepWriteQueues: []int{16}, writeDepths: []int{0, 3},
	dirty: []int64{0, mib}, sizes: []int64{gib, tib}, snapshots: 2, pauseDeep: 3,
	flushed: 4 * mib, own: 4 * mib, clones: 3, chain: 10, catalog: 20, hosts: 2, scattered: 1000, resolveTime: time.Millisecond,
}

// wants says whether a target is to be measured.
func (f form) wants(at target) bool {
	depths, ok := f.peerDepths[at.peer]
	return !ok || slices.Contains(depths, at.depth)
}

// veryClosely is how many rounds there are of what is nearest to what it must reach.
func (f form) veryClosely() int { return 2*f.closely - 1 }
