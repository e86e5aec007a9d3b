package main

// What the host allows a worker: how many files may be open, and how much memory be locked.

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	mostData   = 4096 // data files that are kept open
	otherFiles = 512  // descriptors for everything else, and for data files that requests under way are at
	manyFiles  = mostData + otherFiles
)

// openFiles is how many there may be.
type openFiles struct {
	allowed uint64
	data    int // data files, kept open
}

// few says that there may be fewer than many busy disks need.
func (f openFiles) few() bool { return f.allowed < manyFiles }

// raiseLimits allows many open data files and locked request buffers, as far as the caller may. So few files that guests
// would get errors are refused, but not where guests wait already.
func raiseLimits(guestsWait bool) (openFiles, error) {
	raise(unix.RLIMIT_NOFILE, 1<<16)
	raise(unix.RLIMIT_MEMLOCK, unix.RLIM_INFINITY)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		limit.Cur = manyFiles
	}
	if limit.Cur < otherFiles && !guestsWait {
		return openFiles{}, fmt.Errorf("only %d open files are allowed (ulimit -Hn), with which guests would get errors: allow %d, or %d for many disks",
			limit.Cur, otherFiles, manyFiles)
	}
	return openFiles{limit.Cur, dataFiles(limit.Cur)}, nil
}

// dataFiles is how many of so many may be data files that are kept open.
func dataFiles(allowed uint64) int {
	return int(max(min(allowed, manyFiles)-min(allowed/2, otherFiles), 1))
}

// raise lifts a limit to want, or as high as it goes.
func raise(resource int, want uint64) {
	var limit unix.Rlimit
	if unix.Getrlimit(resource, &limit) != nil || limit.Cur >= want {
		return
	}
	wanted := unix.Rlimit{Cur: want, Max: max(want, limit.Max)}
	if unix.Setrlimit(resource, &wanted) != nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(resource, &limit)
	}
}
