package main

// What a guest notices of a snapshot: how long its writes wait. Must depend neither on the disk's size nor on depth.

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pauseCase is a disk that is snapshotted while its guest writes.
type pauseCase struct {
	size, dirty int64 // bytes; dirty ones are written before each snapshot, and not flushed
	depth       int
}

func (c pauseCase) String() string {
	name := "disk of " + bytesName(c.size)
	if c.dirty > 0 {
		name += ", " + bytesName(c.dirty) + " dirty"
	}
	return name
}

func bytesName(n int64) string {
	switch {
	case n >= tib:
		return fmt.Sprintf("%d TiB", n/tib)
	case n >= gib:
		return fmt.Sprintf("%d GiB", n/gib)
	}
	return fmt.Sprintf("%d MiB", n/mib)
}

const (
	rest  = 40 * time.Millisecond  // between two snapshots
	pause = 200 * time.Microsecond // between two writes of a writer

	// afterMaking is how long what making a disk and those before it has set off has to come to its end.
	afterMaking = 2 * time.Second
)

// alone, after a case's name, is what the same guest notices in between.
const alone = ", no snapshot"

// snapshotter is a disk and who takes snapshots of it.
type snapshotter struct {
	peer     peer
	path     string // of a disk that a guest can write to meanwhile; "": it can't
	buffered bool   // dirty data is what is written through the page cache
	snapshot func() time.Duration
}

// pauses takes snapshots of disks whose guests write a few thousand blocks a second, and watches them as long without any.
func (b *bench) pauses() {
	cases := b.pauseCases()
	b.plan(len(cases) * (len(b.programs) + 4))
	for _, c := range cases {
		for _, p := range b.programs {
			b.pause(c, p.peer, func(s *scope) snapshotter { return snapfsSnapshots(s, p, c) })
		}
		b.pause(c, qsdQcow2, func(s *scope) snapshotter { return qsdSnapshots(s, c) })
		b.pause(c, reflink, func(s *scope) snapshotter { return reflinkSnapshots(s, "xfs", c) })
		b.pause(c, reflinkBtrfs, func(s *scope) snapshotter { return reflinkSnapshots(s, "btrfs", c) })
		if c.dirty == 0 && c.depth == 0 { // qemu-img flushes the image when it closes it
			b.pause(c, internal, func(s *scope) snapshotter { return internalSnapshots(s, c) })
		}
	}
}

// pauseCases begin with those that leave nothing to do for the disk.
func (b *bench) pauseCases() (all []pauseCase) {
	for _, size := range b.sizes {
		all = append(all, pauseCase{size, 0, 0})
	}
	all = append(all, pauseCase{tib, 0, b.pauseDeep})
	for _, size := range b.sizes {
		for _, dirty := range b.dirty {
			if dirty > 0 && 2*dirty <= size {
				all = append(all, pauseCase{size, dirty, 0})
			}
		}
	}
	return all
}

// pause takes the snapshots of one case and peer, whose files are gone afterwards.
func (b *bench) pause(c pauseCase, who peer, make func(*scope) snapshotter) {
	b.step(fmt.Sprintf("%s, depth %d: %s", c, c.depth, who))
	if !b.wants(target{peer: who, depth: c.depth}) {
		return
	}
	s := b.sub()
	defer s.end()
	x := make(s)
	x.peer = who
	if x.path == "" {
		for range min(b.snapshots, 3) {
			b.results.add(row{b.group, c.String(), c.depth, took}, who, milliseconds(x.snapshot()))
		}
		return
	}
	b.pauseOf(s, c, x)
}

func (b *bench) pauseOf(s *scope, c pauseCase, x snapshotter) {
	flags := unix.O_DIRECT
	if x.buffered {
		flags = 0
	}
	d := openDisk(s, x.path, flags)
	defer d.release()
	b.writeBack()
	time.Sleep(afterMaking)
	g := &guest{request: func(d *disk) { d.scatter(1, workingSet) }, pause: pause}
	g.start(s, x.path, unix.O_DIRECT, 2)
	defer g.stop()
	rounds := b.snapshots
	if c.dirty > 0 {
		rounds = min(b.rounds, 2)
	}
	for range rounds {
		g.watch(func() { time.Sleep(rest) })
		d.fill(workingSet, workingSet+c.dirty)
		g.watch(func() {
			b.results.add(row{b.group, c.String(), c.depth, took}, x.peer, milliseconds(x.snapshot()))
			time.Sleep(rest)
		})
	}
	watches := g.stop()
	b.note(c.String()+alone, c.depth, x.peer, every(2, 0, watches))
	b.note(c.String(), c.depth, x.peer, every(2, 1, watches))
}

// note notes how long requests took, in µs.
func (b *bench) note(work string, depth int, who peer, took series) {
	require.NotEmpty(b, took, "%s, %s", work, who)
	for _, x := range []struct {
		metric metric
		value  float64
	}{{p50, took.median()}, {p99, took.quantile(0.99)}, {longest, took.quantile(1)}} {
		b.results.add(row{b.group, work, depth, x.metric}, who, x.value)
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// prepareDisk fills the working set and makes the disk as deep as the case wants it, with blocks all over it.
func (c pauseCase) prepareDisk(s *scope, path string, snapshot func() time.Duration) {
	d := openDisk(s, path, unix.O_DIRECT)
	d.fill(0, workingSet)
	for range c.depth {
		d.scatter(50, c.size)
		snapshot()
	}
	d.scatter(2000, c.size)
	require.NoError(s, d.Sync())
	d.release()
}

func snapfsSnapshots(s *scope, p program, c pauseCase) snapshotter {
	m := newMount(s, p, filepath.Join(s.temp(), "store"))
	m.vm("vm")
	x := snapshotter{path: m.path("vm", "disk"), snapshot: func() time.Duration { return m.another("vm") }}
	newDisk(s, x.path, c.size).release()
	c.prepareDisk(s, x.path, x.snapshot)
	return x
}

func qsdSnapshots(s *scope, c pauseCase) snapshotter {
	q := newStorageDaemon(s, "qcow2", c.size, qemuSettings{AIO: "threads"})
	c.prepareDisk(s, q.path, q.snapshot)
	return snapshotter{path: q.path, snapshot: q.snapshot}
}

// reflinkSnapshots are copies of a file that share its blocks, on a file system of their own.
func reflinkSnapshots(s *scope, fs string, c pauseCase) snapshotter {
	dir, taken := newFileSystem(s, fs, 4*tib), 0
	path := filepath.Join(dir, "disk")
	newDisk(s, path, c.size).release()
	snapshot := func() time.Duration {
		taken++
		began := time.Now()
		run(s, "cp", "--reflink=always", path, filepath.Join(dir, fmt.Sprint("copy", taken)))
		return time.Since(began)
	}
	c.prepareDisk(s, path, snapshot)
	return snapshotter{path: path, buffered: true, snapshot: snapshot}
}

// internalSnapshots are qcow2's, in the image itself, which nobody else may have open meanwhile.
func internalSnapshots(s *scope, c pauseCase) snapshotter {
	q, taken := newStorageDaemon(s, "qcow2", c.size, qemuSettings{AIO: "threads"}), 0
	c.prepareDisk(s, q.path, nil)
	q.stop()
	snapshot := func() time.Duration {
		taken++
		began := time.Now()
		run(s, "qemu-img", "snapshot", "-c", fmt.Sprint("s", taken), q.image(0))
		return time.Since(began)
	}
	return snapshotter{snapshot: snapshot}
}
