package main

// Clones: new VMs that begin as a snapshot of another one.

import (
	"fmt"
	"path/filepath"
	"time"
)

// clones makes many of one snapshot of a disk that is full. A clone of qcow2 is an overlay, of a reflink file system a copy.
func (b *bench) clones() {
	b.plan(b.form.clones)
	var all []cloner
	for _, p := range b.programs {
		all = append(all, b.snapfsCloner(p))
	}
	all = append(all, b.overlayCloner(), b.copyCloner("xfs", reflink), b.copyCloner("btrfs", reflinkBtrfs))
	for i := range b.form.clones {
		b.step(fmt.Sprint(i + 1))
		for _, x := range all {
			b.results.add(row{b.group, "one of " + fmt.Sprint(b.form.clones), noDepth, took}, x.peer, milliseconds(x.clone(i)))
		}
	}
}

// cloner makes the i-th clone.
type cloner struct {
	peer  peer
	clone func(i int) time.Duration
}

// cloned is how much the disk holds, in bytes.
const cloned = 16 * mib

func (b *bench) snapfsCloner(p program) cloner {
	m := newMount(b.scope, p, filepath.Join(b.temp(), "store"))
	m.vm("vm")
	b.fullDisk(m.path("vm", "disk"))
	m.snapshot("vm", "golden")
	return cloner{p.peer, func(i int) time.Duration { return m.command("vm", "clone", fmt.Sprintf("golden to=vm%d", i)) }}
}

func (b *bench) overlayCloner() cloner {
	dir := b.temp()
	golden := filepath.Join(dir, "golden")
	run(b.scope, "qemu-img", "create", "-q", "-f", "qcow2", golden, fmt.Sprint(cloned))
	return cloner{offline, func(i int) time.Duration {
		began := time.Now()
		run(b.scope, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", golden, filepath.Join(dir, fmt.Sprint("clone", i)))
		return time.Since(began)
	}}
}

func (b *bench) copyCloner(fs string, who peer) cloner {
	dir := newFileSystem(b.scope, fs, 4*gib)
	golden := filepath.Join(dir, "golden")
	b.fullDisk(golden)
	return cloner{who, func(i int) time.Duration {
		began := time.Now()
		run(b.scope, "cp", "--reflink=always", golden, filepath.Join(dir, fmt.Sprint("clone", i)))
		return time.Since(began)
	}}
}

func (b *bench) fullDisk(path string) {
	d := newDisk(b.scope, path, cloned)
	d.fill(0, cloned)
	d.release()
}
