package main

// Memory: must depend neither on the size of disks nor on depth. What counts is anonymous memory; the page cache belongs to the host.

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

// mapMemory is what snapfs may use for maps, by default, in MiB.
const mapMemory = 256

// someBlocks is how many are written to the disks whose memory is compared: each takes a cluster in a qcow2.
const someBlocks = 2000

// memories measures disks of different sizes, and then the disks that were read at different depths.
func (b *bench) memories() {
	sizes := []int64{gib, tib}
	b.plan(len(sizes)*(len(b.programs)+1) + len(b.programs)*(1+len(b.depths)))
	for _, size := range sizes {
		for _, p := range b.programs {
			b.step(fmt.Sprintf("%s: %s", bytesName(size), p.peer))
			m := newMount(b.scope, p, filepath.Join(b.temp(), "store"))
			m.vm("vm")
			b.touch(p.peer, m.path("vm", "disk"), size, m.anonymous)
			m.umount()
		}
		b.step(fmt.Sprintf("%s: %s", bytesName(size), qsdQcow2))
		q := newStorageDaemon(b.scope, "qcow2", size, b.disks.qemu)
		b.touch(qsdQcow2, q.path, size, func() int64 { return anonymous(b.scope, q.pid()) })
		q.discard()
	}
	for _, p := range b.programs {
		b.step(fmt.Sprintf("%d blocks: %s", b.scattered, p.peer))
		b.scatter(p)
	}
	b.memoryOfDepth()
}

// touch writes some blocks all over a disk, reads as many places again, and notes the memory in use then.
func (b *bench) touch(who peer, path string, size int64, used func() int64) {
	newDisk(b.scope, path, size).release()
	for _, rw := range []string{"randwrite", "randread"} {
		requests(b.scope, path, rw, size, someBlocks)
	}
	b.results.add(row{b.group, fmt.Sprintf("disk of %s, %d blocks written and read", bytesName(size), someBlocks), noDepth, memory}, who, float64(used())/mib)
}

// requests puts a number of random requests on a disk.
func requests(s *scope, path, rw string, size int64, n int) {
	out, err := exec.Command("fio", "--name=bench", "--filename="+path, fmt.Sprint("--size=", size), "--allow_file_create=0", "--direct=1",
		"--thread", "--rw="+rw, "--bs=4k", "--ioengine=libaio", "--iodepth=16", "--randrepeat=0", "--norandommap",
		fmt.Sprint("--number_ios=", n)).CombinedOutput()
	require.NoError(s, err, "fio: %s", out)
}

// scatter writes many blocks all over a disk of 1 TiB, and notes the most memory that was in use at any time.
func (b *bench) scatter(p program) {
	m := newMount(b.scope, p, filepath.Join(b.temp(), "store"))
	defer m.umount()
	m.vm("vm")
	path := m.path("vm", "disk")
	newDisk(b.scope, path, tib).release()
	var most int64
	var watching sync.WaitGroup
	done := make(chan struct{})
	watching.Go(func() {
		b.do(func() {
			for {
				most = max(most, m.anonymous())
				select {
				case <-done:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	})
	requests(b.scope, path, "randwrite", tib, b.scattered)
	close(done)
	watching.Wait()
	b.results.add(row{b.group, fmt.Sprintf("disk of 1 TiB, %d random writes, most at any time", b.scattered), noDepth, memory}, p.peer, float64(most)/mib)
}

// memoryOfDepth reads disks of different depths, all of them, each with a daemon that has just been started.
func (b *bench) memoryOfDepth() {
	note := func(who peer, depth int, used int64) {
		b.results.add(row{b.group, "disk of " + bytesName(b.size) + ", read all over", depth, memory}, who, float64(used)/mib)
	}
	for _, depth := range b.depths {
		for _, m := range b.disks.mounts {
			b.step(fmt.Sprintf("depth %d: %s", depth, m.peer))
			m.remount()
			warm(b.disks.s, m.path(vmName(depth), "disk"), b.size)
			note(m.peer, depth, m.anonymous())
		}
		if q := b.disks.chains[depth]; q != nil && b.wants(target{peer: qsdQcow2, depth: depth}) {
			q.restart()
			warm(b.disks.s, q.path, b.size)
			note(qsdQcow2, depth, anonymous(b.disks.s, q.pid()))
		}
	}
}
