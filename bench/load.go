package main

// A load: what is put on a disk, and how it is called in tables.

import (
	"fmt"
	"strings"
	"time"
)

// load is what a guest does.
type load struct {
	rw     string // as fio has it: randread, randwrite, randrw, read, write
	block  int    // bytes of a request
	engine string // how fio asks; "QEMU": qemu-img bench does
	queue  int    // requests under way, of each job
	jobs   int    // how many ask at the same time
	apart  bool   // each of them has a disk of its own
	synced bool   // an fdatasync after each write, or with several under way after each so many
	cached bool   // through the page cache of whoever asks
	fresh  bool   // after a snapshot: blocks are written for the first time
}

var loadNames = map[string]string{
	"randread": "random read", "randwrite": "random write", "randrw": "random read and write, 70:30",
	"read": "sequential read", "write": "sequential write",
}

func small(rw string, queue int) load {
	return load{rw: rw, block: blockSize, engine: "libaio", queue: queue, jobs: 1}
}

func sequential(rw string) load {
	return load{rw: rw, block: mib, engine: "libaio", queue: 4, jobs: 1}
}

func synced(writers int) load {
	return load{rw: "randwrite", block: blockSize, engine: "psync", queue: 1, jobs: writers, synced: true}
}

// grouped is what several writers that sync come to where QEMU has their requests: it flushes a disk once at a time, for all that was
// written before.
func grouped(writers int) load {
	return load{rw: "randwrite", block: blockSize, engine: "QEMU", queue: writers, jobs: 1, synced: true}
}

// after is the load after a snapshot.
func (l load) after() load {
	l.fresh = true
	return l
}

// each is the load with a disk for each job.
func (l load) each() load {
	l.apart = true
	return l
}

// by is the load from another of fio's engines.
func (l load) by(engine string) load {
	l.engine = engine
	return l
}

func (l load) writes() bool { return l.rw != "randread" && l.rw != "read" }

func (l load) reads() bool { return l.rw != "randwrite" && l.rw != "write" }

// metric is how fast it goes.
func (l load) metric() metric {
	if l.block >= mib {
		return throughput
	}
	return iops
}

// String is the load's name in tables.
func (l load) String() string {
	size := fmt.Sprintf("%d KiB", l.block>>10)
	if l.block >= mib {
		size = fmt.Sprintf("%d MiB", l.block/mib)
	}
	words := []string{size + " " + loadNames[l.rw]}
	switch {
	case l.synced && l.queue > 1:
		words[0] += fmt.Sprintf(", a flush after each %d", l.queue)
	case l.synced:
		words[0] += " + fdatasync"
	}
	if l.jobs > 1 {
		words = append(words, fmt.Sprintf("%d writers", l.jobs))
		if l.apart {
			words[1] += " with a disk each"
		}
	}
	words = append(words, fmt.Sprintf("queue %d", l.queue))
	if l.engine != "libaio" {
		words = append(words, l.engine)
	}
	if l.fresh {
		words = append(words, "after a snapshot")
	}
	return strings.Join(words, ", ")
}

// sample is what came out once.
type sample struct {
	ops      float64 // in all
	perSec   float64
	p50, p99 float64 // µs a request; 0: not known
}

// target is a disk to put loads on.
type target struct {
	peer     peer
	depth    int // snapshots below it
	put      func(l load, t time.Duration) sample
	snapshot func()     // takes one, before a load that wants it; nil: there is no such thing
	fill     func()     // writes all of it
	warm     func()     // has all of it in the host's page cache; nil: it does not go through that
	server   func() int // the process whose CPU time counts; nil: nobody's
	path     string     // of the file, if it is one
}
