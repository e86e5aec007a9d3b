package main

// The disks that loads are put on: for each peer and depth one, whose blocks are spread evenly over its layers.
//
// A disk of depth n is filled in n+1 parts with a snapshot between two of them, and each part is as many runs of 64 KiB
// at random places, so that a read finds its block anywhere in the chain with the same probability. With such runs qcow2 has nothing to copy
// up when the disk is filled.

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// maxQcow2Depth is how deep chains of qcow2 are made.
const maxQcow2Depth = 500

// disks are all of them.
type disks struct {
	s      *scope
	form   form
	mounts []*mount
	qemu   qemuSettings // of the storage daemon
	direct qemuSettings // of qemu-img bench with cache=none
	chains map[int]*storageDaemon
	flat   []target // peers that know no snapshots
}

// makeDisks makes the disks of some depths, all at the same time, and reads each of them once.
func makeDisks(s *scope, f form, programs []program, depths []int, step func(string)) *disks {
	d := &disks{s: s, form: f, chains: make(map[int]*storageDaemon)}
	step("finding QEMU's fastest settings")
	d.calibrate()
	var work []func()
	for _, p := range programs {
		m := newMount(s, p, filepath.Join(s.temp(), "store"))
		d.mounts = append(d.mounts, m)
		for _, depth := range depths {
			work = append(work, func() { d.deepen(m, depth) })
		}
	}
	for _, depth := range depths {
		if depth <= maxQcow2Depth {
			d.chains[depth] = newStorageDaemon(s, "qcow2", f.size, d.qemu)
			work = append(work, func() { d.deepenChain(d.chains[depth], depth) })
		}
	}
	work = append(work, d.makeFlat)
	for i := range work {
		do := work[i]
		work[i] = func() { do(); step("making disks") }
	}
	s.parallel(work...)
	return d
}

// deepen makes a disk of snapfs.
func (d *disks) deepen(m *mount, depth int) {
	vm := vmName(depth)
	m.vm(vm)
	x := newDisk(d.s, m.path(vm, "disk"), d.form.size)
	i := 0
	d.spread(x, depth, func() {
		m.snapshot(vm, fmt.Sprintf("s%d", i))
		i++
	})
	warm(d.s, m.path(vm, "disk"), d.form.size)
}

func vmName(depth int) string { return fmt.Sprintf("depth%d", depth) }

// deepenChain makes a chain of qcow2 images, and has it opened anew as it is from then on.
func (d *disks) deepenChain(q *storageDaemon, depth int) {
	d.spread(openDisk(d.s, q.path, unix.O_DIRECT), depth, func() { q.snapshot() })
	q.restart()
	warm(d.s, q.path, d.form.size)
}

// makeFlat makes the disks of those that know no snapshots.
func (d *disks) makeFlat() {
	dir := d.s.temp()
	mountpoint, pid := newLoopback(d.s, dir)
	q := newStorageDaemon(d.s, "raw", d.form.size, d.qemu)
	file := func(who peer, path string, server func() int, again func()) {
		d.spread(newDisk(d.s, path, d.form.size), 0, nil)
		warm(d.s, path, d.form.size)
		d.flat = append(d.flat, target{peer: who, path: path, put: fioOn(d.s, d.form.size, path), server: server,
			fill: func() { refill(d.s, path, d.form.size) }, warm: again})
	}
	file(qsdRaw, q.path, q.pid, q.warm)
	file(raw, filepath.Join(dir, "raw"), nil, nil)
	path := filepath.Join(mountpoint, "loopback")
	newDisk(d.s, filepath.Join(dir, "loopback"), d.form.size).release()
	file(loopback, path, func() int { return pid }, func() { warm(d.s, path, d.form.size) })
}

// spread fills a disk.
func (d *disks) spread(x *disk, depth int, snapshot func()) {
	runs := rand.Perm(int(d.form.size / runSize))
	for i := range depth + 1 {
		if i > 0 {
			snapshot()
		}
		x.fillRuns(runs[i*len(runs)/(depth+1) : (i+1)*len(runs)/(depth+1)])
	}
	require.NoError(d.s, x.Sync())
	x.release()
}

// warm reads a file once.
func warm(s *scope, path string, size int64) {
	x := openDisk(s, path, unix.O_DIRECT)
	x.warm(size)
	x.release()
}

// refill writes all of a disk, as it was filled at first.
func refill(s *scope, path string, size int64) {
	x := openDisk(s, path, unix.O_DIRECT)
	x.fillRuns(rand.Perm(int(size / runSize)))
	require.NoError(s, x.Sync())
	x.release()
}

// drop removes the disks of a depth, but those that know no snapshots.
func (d *disks) drop(depth int) {
	for _, m := range d.mounts {
		run(d.s, m.program, "destroy", m.path(vmName(depth)), "--yes")
		m.awaitReclaimed()
	}
	if q := d.chains[depth]; q != nil {
		q.discard()
		delete(d.chains, depth)
	}
}

// targets are the disks of some depths.
func (d *disks) targets(depths []int) (all []target) {
	for _, depth := range depths {
		for _, m := range d.mounts {
			vm := vmName(depth)
			path := m.path(vm, "disk")
			all = append(all, target{peer: m.peer, depth: depth, path: path, put: fioOn(d.s, d.form.size, path), server: func() int { return m.Worker() },
				snapshot: func() { m.another(vm) }, fill: func() { refill(d.s, path, d.form.size) }, warm: func() { warm(d.s, path, d.form.size) }})
		}
		if q := d.chains[depth]; q != nil {
			all = append(all, target{peer: qsdQcow2, depth: depth, put: fioOn(d.s, d.form.size, q.path), server: q.pid,
				snapshot: func() { q.snapshot() }, fill: func() { refill(d.s, q.path, d.form.size) }, warm: q.warm})
		}
		if depth == 0 {
			all = append(all, d.flat...)
		}
	}
	return d.wanted(all)
}

// wanted leaves out what the form does without.
func (d *disks) wanted(all []target) []target {
	return slices.DeleteFunc(all, func(at target) bool { return !d.form.wants(at) })
}

// images are the chains as qemu-img bench reads them, with cache=none and, in the full form, through the page cache.
func (d *disks) images(depths []int) (all []target) {
	for _, depth := range depths {
		q := d.chains[depth]
		if q == nil {
			continue
		}
		x := newImageBench(d.s, q.top, "qcow2", "none", d.direct.AIO, d.form.size)
		all = append(all, target{peer: qcow2, depth: depth, put: x.put})
		if d.form.cached {
			x := newImageBench(d.s, q.top, "qcow2", "writeback", "threads", d.form.size)
			all = append(all, target{peer: qcow2Cache, depth: depth, put: x.put, warm: q.warm})
		}
	}
	return d.wanted(all)
}

// overlays are an image over a chain, for qemu-img bench to write to. The daemon that has the chain open must take a
// snapshot for that, as only images that it does not write to can be shared.
func (d *disks) overlays(depth int) []target {
	q := d.chains[depth]
	if q == nil || !d.form.wants(target{peer: qcow2, depth: depth}) {
		return nil
	}
	q.snapshot()
	base, path := q.sealed(), filepath.Join(d.s.temp(), "overlay")
	x := newImageBench(d.s, func() string { return path }, "qcow2", "none", d.direct.AIO, d.form.size)
	snapshot := func() { run(d.s, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path) }
	snapshot()
	return []target{{peer: qcow2, depth: depth, put: x.put, snapshot: snapshot,
		fill: func() { x.bench(load{rw: "write", block: runSize, queue: 16}, int(d.form.size/runSize)) }}}
}

// throughQEMU are those of targets that are plain files, as QEMU's block layer writes to them.
func (d *disks) throughQEMU(targets []target) (all []target) {
	for _, at := range targets {
		if at.path != "" {
			at.put = newImageBench(d.s, func() string { return at.path }, "raw", "none", d.direct.AIO, d.form.size).put
			all = append(all, at)
		}
	}
	return all
}

// writable are the disks of a depth, and images over them.
func (d *disks) writable(depth int) []target {
	return append(d.targets([]int{depth}), d.overlays(depth)...)
}

// calibrate finds the settings with which QEMU reads fastest at random.
func (d *disks) calibrate() {
	l, size := small("randread", 16), int64(16*mib)
	rate := func(s qemuSettings) float64 {
		q := newStorageDaemon(d.s, "qcow2", size, s)
		refill(d.s, q.path, size)
		warm(d.s, q.path, size)
		defer q.stop()
		return fio(d.s, size, l, d.form.each, q.path).perSec
	}
	d.qemu = fastest([]qemuSettings{{false, "threads"}, {false, "io_uring"}, {true, "native"}, {true, "io_uring"}}, rate)

	image := filepath.Join(d.s.temp(), "image")
	run(d.s, "qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(size))
	d.direct = fastest([]qemuSettings{{true, "threads"}, {true, "native"}, {true, "io_uring"}}, func(s qemuSettings) float64 {
		x := newImageBench(d.s, func() string { return image }, "qcow2", "none", s.AIO, size)
		x.bench(load{rw: "write", block: mib, queue: 1}, int(size/mib))
		return x.put(l, d.form.each).perSec
	})
}

// fastest returns the settings of the highest rate.
func fastest(all []qemuSettings, rate func(qemuSettings) float64) qemuSettings {
	rates := make(map[qemuSettings]float64)
	for _, s := range all {
		rates[s] = rate(s)
	}
	return slices.MaxFunc(all, func(a, b qemuSettings) int { return int(rates[a] - rates[b]) })
}
