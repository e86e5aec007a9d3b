package main

// The daemon itself: opens the store, serves the mount, and closes everything in order.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// baseMemory is what the daemon needs beside the maps: request buffers, the index, the garbage collector's slack.
const baseMemory = 192 << 20

// serve runs a mount until it is unmounted, and calls ready once it answers. A cancelled context ends it as a signal
// does. What guests flushed is safe at any moment; what they only wrote is flushed when the store is closed.
func (a *app) serve(ctx context.Context, spec mountSpec, log *daemonLog, ready func()) error {
	raiseLimits()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(baseMemory + int64(spec.mapMemory))
	}
	events := fs.NewEventLog(log)
	store, err := layer.Open(spec.store, layer.Options{
		Reserve:   layer.Reserve(spec.reserve),
		MapMemory: int64(spec.mapMemory),
		Event:     events.Add,
	})
	if err != nil {
		return err
	}
	defer store.Close() // the paths that fail; twice is fine
	if !spec.foreground {
		if err := log.open(filepath.Join(spec.store, "log")); err != nil {
			return err
		}
	}
	session, err := fs.Mount(store, fs.Options{
		Mountpoint:     spec.mountpoint,
		SnapdirVisible: spec.snapdir == "visible",
		Logf:           log.printf,
		Log:            events,
	})
	if err != nil {
		return err
	}
	log.printf("serving %s at %s, version %s, pid %d", spec.store, spec.mountpoint, version(), os.Getpid())
	ready()
	stop := endOnSignal(ctx, session, spec.mountpoint, log)
	err = session.Wait()
	stop()
	if err = errors.Join(err, store.Close()); err != nil {
		log.printf("closed %s with an error: %v", spec.store, err)
		return err
	}
	log.printf("closed %s", spec.store)
	return nil
}

// raiseLimits allows many open data files and locked request buffers, as far as the caller may.
func raiseLimits() {
	const files = 1 << 16
	raise(unix.RLIMIT_NOFILE, files)
	raise(unix.RLIMIT_MEMLOCK, unix.RLIM_INFINITY)
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

// endOnSignal unmounts on SIGTERM, SIGINT or SIGHUP, or when ctx ends: as soon as nobody uses the mount any more. A
// second signal detaches it from the directory tree; those who have files open keep them until they close them.
func endOnSignal(ctx context.Context, session *fs.Session, mountpoint string, log *daemonLog) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	signal.Ignore(unix.SIGPIPE) // whoever read our stderr may go; the disks must stay
	gone := make(chan struct{})
	go func() {
		select {
		case <-gone:
			return
		case <-signals:
		case <-ctx.Done():
		}
		endWhenIdle(session, mountpoint, log, signals, gone)
	}()
	return func() {
		signal.Stop(signals)
		close(gone)
	}
}

// endWhenIdle tries to unmount until it is done.
func endWhenIdle(session *fs.Session, mountpoint string, log *daemonLog, signals <-chan os.Signal, gone <-chan struct{}) {
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	told := false
	for {
		err := session.Unmount()
		if err == nil {
			return
		}
		if !told {
			told = true
			log.printf("asked to end, serving on: %v", whyNot(mountpoint, err))
		}
		select {
		case <-gone:
			return
		case <-signals:
			if err := unix.Unmount(mountpoint, unix.MNT_DETACH); err != nil {
				log.printf("detaching %s: %v", mountpoint, err)
				continue
			}
			log.printf("detached from %s; ending when the last open file is closed", mountpoint)
			return
		case <-retry.C:
		}
	}
}

// whyNot explains a failed unmount.
func whyNot(mountpoint string, err error) error {
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	m, mountErr := mountAt(mountpoint)
	if mountErr != nil || m == nil {
		return err
	}
	return fmt.Errorf("%w (a second signal detaches the mount now)", busyError(*m))
}
