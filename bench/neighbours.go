package main

// What one VM feels of another: a guest asks for one thing after the other, while its neighbour does much at once.

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// neighbours are two VMs of a peer.
type neighbours struct {
	peer   peer
	flags  int // with which their disks are opened
	create func(s *scope, size int64) homes
}

// homes are where their disks are: one of the working set, the other of some size.
type homes struct {
	calm, busy string
	snapshot   func() // takes one of the calm VM; nil: there is no such thing
}

// neighbours measures both kinds of trouble: a neighbour that flushes much, and one that reads much.
func (b *bench) neighbours() {
	var hosts []neighbours
	for _, p := range b.programs {
		hosts = append(hosts, neighbours{p.peer, unix.O_DIRECT, func(s *scope, _ int64) homes {
			m := newMount(s, p, filepath.Join(s.temp(), "store"))
			m.vm("calm")
			m.vm("busy")
			return homes{m.path("calm", "disk"), m.path("busy", "disk"), func() { m.another("calm") }}
		}})
	}
	files := func(s *scope, _ int64) homes {
		dir := s.temp()
		return homes{calm: filepath.Join(dir, "calm"), busy: filepath.Join(dir, "busy")}
	}
	hosts = append(hosts, neighbours{raw, unix.O_DIRECT, files}, neighbours{rawCached, 0, files})
	flushing := append(hosts, neighbours{qsdQcow2, unix.O_DIRECT, daemons("qcow2")})
	reading := append(hosts, neighbours{qsdRaw, unix.O_DIRECT, daemons("raw")})
	b.plan(b.troubles * (len(flushing) + len(reading)))
	for range b.troubles {
		for _, n := range flushing {
			b.trouble(n, "write + fdatasync", b.flushed, b.flushes)
		}
		for _, n := range reading {
			b.trouble(n, "random read", workingSet, b.overloads)
		}
	}
}

// daemons are two of QEMU's, as libvirt has one for each VM.
func daemons(format string) func(*scope, int64) homes {
	return func(s *scope, size int64) homes {
		settings := qemuSettings{AIO: "io_uring"} // through the page cache: the fastest
		calm, busy := newStorageDaemon(s, format, workingSet, settings), newStorageDaemon(s, format, size, settings)
		return homes{calm.path, busy.path, func() { calm.snapshot() }}
	}
}

// trouble makes two VMs, lets one of them make trouble for the other, and takes them away.
func (b *bench) trouble(n neighbours, work string, size int64, make func(*scope, neighbours, homes)) {
	b.step(fmt.Sprintf("%s: %s", work, n.peer))
	s := b.sub()
	defer s.end()
	at := n.create(s, size)
	n.fill(s, at.calm)
	newDisk(s, at.busy, size).release()
	b.writeBack()
	make(s, n, at)
}

// fill makes a disk of the working set and reads it, so that it lies in the page cache if there is one.
func (n neighbours) fill(s *scope, path string) {
	d := openDisk(s, path, n.flags)
	d.fill(0, workingSet)
	require.NoError(s, d.Sync())
	d.warm(workingSet)
	d.release()
}

// flushes has the neighbour write much and then flush it. The calm VM has just had a snapshot, where there is one.
func (b *bench) flushes(s *scope, n neighbours, at homes) {
	if at.snapshot != nil {
		at.snapshot()
	}
	g := &guest{request: func(d *disk) {
		d.scatter(1, workingSet)
		require.NoError(s, unix.Fdatasync(int(d.Fd())))
	}}
	g.start(s, at.calm, n.flags, 1)
	defer g.stop()
	d := openDisk(s, at.busy, n.flags)
	much := bytesName(b.flushed)
	timed := func(what string, f func()) {
		began := time.Now()
		f()
		b.results.add(row{b.group, "the other VM's " + much + " " + what, noDepth, took}, n.peer, milliseconds(time.Since(began)))
	}
	g.watch(func() { time.Sleep(2 * b.each) })
	g.watch(func() { timed("written", func() { d.fill(0, b.flushed) }) })
	g.watch(func() { timed("flushed", func() { require.NoError(s, unix.Fdatasync(int(d.Fd()))) }) })
	watches := g.stop()
	const work = "4 KiB random write + fdatasync"
	b.note(work+", alone", noDepth, n.peer, watches[0])
	b.note(work+", while the other VM writes "+much, noDepth, n.peer, watches[1])
	b.note(work+", while it flushes them", noDepth, n.peer, watches[2])
}

// overload is what the neighbour does that reads much: far more at once than the machine has processors for.
func overload(cached bool) load {
	l := small("randread", 64)
	l.jobs, l.cached = 8, cached
	return l
}

// overloads has the neighbour read much at once.
func (b *bench) overloads(s *scope, n neighbours, at homes) {
	n.fill(s, at.busy)
	g := &guest{request: func(d *disk) { d.read(workingSet) }}
	g.start(s, at.calm, n.flags, 1)
	defer g.stop()
	l, t := overload(n.flags&unix.O_DIRECT == 0), 2*b.each
	g.watch(func() { time.Sleep(t) })
	f := startFio(s, workingSet, l, t+b.each, at.busy)
	g.watch(func() { time.Sleep(t) })
	out := f.wait()
	watches := g.stop()

	beside := fmt.Sprintf(", beside %d jobs that read, queue %d", l.jobs, l.queue)
	b.note("4 KiB random read, alone", noDepth, n.peer, watches[0])
	b.note("4 KiB random read"+beside, noDepth, n.peer, watches[1])
	times := func(m metric, p float64) {
		b.results.add(row{b.group, "4 KiB random read" + beside, noDepth, m}, n.peer, watches[1].quantile(p)/watches[0].quantile(p))
	}
	times(p50Alone, 0.5)
	times(p99Alone, 0.99)
	b.results.add(row{b.group, "those jobs' reads", noDepth, iops}, n.peer, out.perSec)
}
