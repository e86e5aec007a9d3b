package main

// Fleets: as many VMs as there are writers, with a disk each.

import (
	"fmt"
	"path/filepath"
)

// fleets makes one of n disks for each peer. Together they are as large as the one disk of other loads.
func (b *bench) fleets(n int) (all []target) {
	size := b.size / int64(n)
	fleet := func(who peer, paths []string) *target {
		all = append(all, target{peer: who, put: fioOn(b.scope, size, paths...), fill: func() {
			for _, path := range paths {
				refill(b.scope, path, size)
			}
		}})
		return &all[len(all)-1]
	}
	for _, p := range b.programs {
		m := newMount(b.scope, p, filepath.Join(b.temp(), "store"))
		at := fleet(p.peer, b.files(n, size, func(i int) string {
			m.vm(vmOf(i))
			return m.path(vmOf(i), "disk")
		}))
		at.server = func() int { return m.Worker() }
		at.snapshot = func() {
			for i := range n {
				m.another(vmOf(i))
			}
		}
	}
	b.qemuFleet(n, size, fleet)
	host, under := b.temp(), b.temp()
	name := func(dir string) func(int) string {
		return func(i int) string { return filepath.Join(dir, vmOf(i)) }
	}
	fleet(raw, b.files(n, size, name(host)))
	mountpoint, pid := newLoopback(b.scope, under)
	b.files(n, size, name(under))
	fleet(loopback, paths(n, name(mountpoint))).server = func() int { return pid }
	return all
}

// qemuFleet has a daemon for each VM, as libvirt has a QEMU.
func (b *bench) qemuFleet(n int, size int64, fleet func(peer, []string) *target) {
	daemons, paths := make([]*storageDaemon, n), make([]string, n)
	for i := range n {
		daemons[i] = newStorageDaemon(b.scope, "qcow2", size, b.disks.qemu)
		paths[i] = daemons[i].path
	}
	fleet(qsdQcow2, paths).snapshot = func() {
		for _, q := range daemons {
			q.snapshot()
		}
	}
}

func vmOf(i int) string { return fmt.Sprint("vm", i) }

// files makes n files, and returns their paths.
func (b *bench) files(n int, size int64, path func(int) string) []string {
	all := paths(n, path)
	for _, p := range all {
		newDisk(b.scope, p, size).release()
	}
	return all
}

func paths(n int, path func(int) string) (all []string) {
	for i := range n {
		all = append(all, path(i))
	}
	return all
}
