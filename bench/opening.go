package main

// From nothing running to disks that can be used: stores with many snapshots, chains of many images.

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// host is what a store holds: VMs with two disks each, the first of which was written to before each snapshot.
type host struct{ vms, snapshots int }

func (h host) String() string {
	if h.vms == 1 {
		return "one VM"
	}
	return fmt.Sprintf("%d VMs", h.vms)
}

// opens mounts stores, and has qemu-storage-daemon open a chain.
func (b *bench) opens() {
	hosts := []host{{1, b.chain}, {1, b.catalog}}
	if b.hosts > 1 {
		hosts = append(hosts, host{b.hosts, b.catalog})
	}
	b.plan(len(hosts) * (1 + len(b.programs)*b.rounds))
	for _, h := range hosts {
		dir := filepath.Join(b.temp(), "store")
		b.step(fmt.Sprintf("making a store of %s with %d snapshots", h, h.snapshots))
		h.create(b.scope, dir)
		b.open(h, dir)
	}
	q := newStorageDaemon(b.scope, "qcow2", gib, qemuSettings{AIO: "threads"})
	d := openDisk(b.scope, q.path, unix.O_DIRECT)
	for range hosts[0].snapshots {
		q.snapshot()
		d.write(0, runSize)
	}
	d.release()
	for range b.rounds {
		q.stop()
		began := time.Now()
		q.start()
		b.results.add(row{b.group, hosts[0].String(), hosts[0].snapshots, took}, qsdQcow2, milliseconds(time.Since(began)))
	}
}

// open mounts a store with each program, again and again.
func (b *bench) open(h host, dir string) {
	for range b.rounds {
		for _, p := range b.programs {
			b.step(fmt.Sprintf("%s with %d snapshots: %s", h, h.snapshots, p.peer))
			began := time.Now()
			m := newMount(b.scope, p, dir)
			b.results.add(row{b.group, h.String(), h.snapshots, took}, p.peer, milliseconds(time.Since(began)))
			b.results.add(row{b.group, h.String(), h.snapshots, memory}, p.peer, float64(m.anonymous())/mib)
			m.umount()
		}
	}
}

// create makes the store, all VMs at the same time, without a daemon: there are many snapshots to take.
func (h host) create(s *scope, dir string) {
	store, err := layer.Open(dir, layer.Options{})
	require.NoError(s, err)
	var wg sync.WaitGroup
	errs := make([]error, h.vms)
	for i := range h.vms {
		wg.Go(func() { errs[i] = h.createVM(store, fmt.Sprint("vm", i)) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(s, err)
	}
	require.NoError(s, store.Close())
}

func (h host) createVM(s *layer.Store, name string) error {
	vm, err := s.CreateVM(name, 0o755, 0, 0)
	if err != nil {
		return err
	}
	var disks []*layer.File
	for _, name := range []string{"root.img", "data.img"} {
		disk, _, err := vm.Create(name, 0o644, 0, 0, true)
		if err != nil {
			return err
		}
		size := int64(tib)
		if _, err := disk.SetAttr(layer.SetAttr{Size: &size}); err != nil {
			return err
		}
		disks = append(disks, disk)
	}
	block := make([]byte, blockSize)
	for i := range h.snapshots {
		if _, err := disks[0].Write(block, int64(i)*blockSize, true); err != nil {
			return err
		}
		if _, err := vm.CreateSnapshot(layer.CreateOptions{Name: fmt.Sprint("s", i)}); err != nil {
			return err
		}
	}
	return nil
}
