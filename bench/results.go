package main

// What came out: every figure of a run.

import "slices"

// peer is who is measured: a column of a table.
type peer string

const (
	snapfs       peer = "snapfs"
	before       peer = "before" // the other binary of snapfs
	qsdQcow2     peer = "QSD qcow2"
	qsdRaw       peer = "QSD raw"
	qcow2        peer = "qcow2"        // QEMU's block layer alone, cache=none
	qcow2Cache   peer = "qcow2 cached" // the same through the page cache
	raw          peer = "raw file"
	rawCached    peer = "raw file cached" // through the page cache of the host
	loopback     peer = "loopback"
	reflink      peer = "XFS reflink"
	reflinkBtrfs peer = "btrfs reflink"
	internal     peer = "qcow2 internal"
	naive        peer = "naive walk"
	offline      peer = "qemu-img"
)

// peers are all of them in the order of columns.
var peers = []peer{snapfs, before, qsdQcow2, qcow2, qcow2Cache, offline, naive, internal, qsdRaw, loopback, raw, rawCached, reflink, reflinkBtrfs}

// metric is what is measured.
type metric struct {
	name string
	less bool // the less the better
}

var (
	iops        = metric{name: "IOPS"}
	throughput  = metric{name: "MiB/s"}
	p50         = metric{"p50 µs", true}
	p99         = metric{"p99 µs", true}
	longest     = metric{"max µs", true}
	p50Alone    = metric{"p50, times alone", true}
	p99Alone    = metric{"p99, times alone", true}
	cpuPerOp    = metric{"CPU µs/request", true}
	took        = metric{"ms", true}
	freed       = metric{"ms until freed", true}
	bytesRead   = metric{"bytes read/byte freed", true}
	bytesWrote  = metric{"bytes written/byte freed", true}
	memory      = metric{"anonymous MiB", true}
	perBlock    = metric{"ns/block", true}
	allocations = metric{"allocations", true}
)

// row is a row of a table: something that was done by each of the peers.
type row struct {
	group, work string
	depth       int // snapshots; noDepth: has none
	metric      metric
}

const noDepth = -1

// results are all figures, a value a round.
type results struct {
	rows   []row // in the order in which they came
	values map[row]map[peer]series
}

func newResults() *results { return &results{values: make(map[row]map[peer]series)} }

// add notes the next value of a series.
func (r *results) add(at row, who peer, value float64) {
	if r.values[at] == nil {
		r.values[at] = make(map[peer]series)
		r.rows = append(r.rows, at)
	}
	r.values[at][who] = append(r.values[at][who], value)
}

// of returns a series, nil if nothing was measured.
func (r *results) of(at row, who peer) series { return r.values[at][who] }

// present lists the peers of some rows, in the order of columns.
func (r *results) present(rows []row) (all []peer) {
	for _, who := range peers {
		if slices.ContainsFunc(rows, func(at row) bool { return r.values[at][who] != nil }) {
			all = append(all, who)
		}
	}
	return all
}

// better is how many times better snapfs did than a peer.
func (r *results) better(at row, than peer) (float64, bool) { return r.times(at, snapfs, than) }

// times is how many times better one peer did than another.
func (r *results) times(at row, who, than peer) (float64, bool) {
	x, y := r.of(at, who), r.of(at, than)
	if x == nil || y == nil {
		return 0, false
	}
	if at.metric.less {
		return y.over(x), true
	}
	return x.over(y), true
}

// find returns the rows of a group and metric for which snapfs was measured and which will do.
func (r *results) find(group string, m metric, will func(row) bool) (all []row) {
	for _, at := range r.rows {
		if at.group == group && at.metric == m && r.of(at, snapfs) != nil && will(at) {
			all = append(all, at)
		}
	}
	return all
}

// worst is the largest value of such rows.
func (r *results) worst(group string, m metric, will func(row) bool, value func(row) float64) (most float64, ok bool) {
	for _, at := range r.find(group, m, will) {
		most, ok = max(most, value(at)), true
	}
	return most, ok
}

// relative is how many times as much snapfs's median is in one row as in another.
func (r *results) relative(at, to row) float64 {
	return r.of(at, snapfs).median() / r.of(to, snapfs).median()
}
