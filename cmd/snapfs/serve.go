package main

// Serving: a worker opens the store, serves the mount, and closes everything in order.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// baseMemory is what the daemon needs beside the maps: request buffers, the index, the garbage collector's slack. Go's runtime is
// told of less: lateMemory is what it takes on top before it has collected, and what is not its own.
const (
	baseMemory = 192 << 20
	lateMemory = 32 << 20
)

// mapShare is how much of the memory for maps they take. The rest, 64 MiB of the usual 256, is for the moment in which the index
// writes what it was told of last to a table: all of that is in memory three times then.
func mapShare(mapMemory int64) int64 { return mapMemory - mapMemory/4 }

// drainEvents is how long a daemon that ends waits for the last events to be written.
const drainEvents = 2 * time.Second

// drainTime is how long a worker that is to make room for another waits for the commands under way. One that is cut short
// then is answered by the next worker.
const drainTime = time.Minute

// requestFault is what tests have requests do to their worker.
var requestFault func(request []byte)

// maxThreads is more than there can be when a disk stands still: one for each request that the kernel has under way.
const maxThreads = 1 << 15

// serve serves a mount until it is unmounted. A cancelled context ends it as a signal does. What guests flushed is safe
// at any moment; what they only wrote is flushed when the store is closed.
func (a *app) serve(ctx context.Context, end func(), spec mountSpec, log *daemonLog, w *supervised) error {
	files, err := raiseLimits(w.restarts > 0)
	if err != nil {
		return err
	}
	if os.Getenv("GOMAXPROCS") == "" {
		// The session's loops block in the kernel most of the time. With room for them beside the processors, the
		// runtime need not find out each time: a flush costs half, a third more of them are done.
		runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	}
	debug.SetMaxThreads(maxThreads)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(baseMemory - lateMemory + int64(spec.mapMemory))
	}
	kept := newDaemonLog(nil)
	events := fs.NewEventLog(log, kept)
	defer events.Drain(drainEvents)
	var serving atomic.Bool
	store, err := layer.Open(spec.store, layer.Options{
		Reserve:      layer.Reserve(spec.reserve),
		MapMemory:    mapShare(int64(spec.mapMemory)),
		MaxOpenFiles: files.data,
		Verify:       spec.verify,
		Event:        events.Add,
		Session:      w.session,
		Failed: func(err error) {
			if serving.Load() {
				events.Drain(drainEvents)
				endNow(log, err)
			}
		},
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
	if err := keepEvents(filepath.Join(spec.store, "events"), events, kept); err != nil {
		return err
	}
	signals, release := catchSignals(ctx, w.ending, endSignals)
	defer release()
	keeper := startKeeper(store, events, spec.mountpoint)
	defer keeper.close() // the same
	devices, err := w.devices()
	if err != nil {
		keeper.close()
		events.Drain(drainEvents)
		return errors.Join(err, store.Unmake())
	}
	session, err := fs.Mount(store, fs.Options{
		Mountpoint:     spec.mountpoint,
		Devices:        devices,
		Supervision:    w.supervision,
		Version:        version(),
		SnapdirVisible: spec.snapdir == "visible",
		LetSleep:       spec.letSleep,
		Logf:           log.printf,
		Log:            events,
		Create:         keeper.taker.take,
		PolicyChanged:  keeper.policyChanged,
		Reasons:        keeper.reasons,
		Progress:       keeper.taker.progress,
		Fault:          requestFault,
	})
	if errors.Is(err, fs.ErrOver) {
		log.printf("closing what a worker left that ended after the mount")
		keeper.close()
		return w.close(store)
	}
	if err != nil {
		return err
	}
	if files.few() {
		events.Add("", "few-files", "allowed", files.allowed, "what", fmt.Sprintf("with many disks in use at once reads and writes may fail: allow %d open files (ulimit -Hn)", manyFiles))
	}
	if w.restarts > 0 {
		events.Add("", "worker-started", "restarts", w.restarts, "last", w.lastExit)
	}
	log.printf("serving %s at %s, version %s, pid %d", spec.store, spec.mountpoint, version(), os.Getpid())
	if f := store.Format(); f.Version < f.Newest && (w.restarts == 0 || w.lastExit == upgraded) {
		events.Add("", "older-format", "version", f.Version, "newest", f.Newest, "lacks", f.Lacks,
			"what", "`snapfs upgrade "+spec.mountpoint+" --format` raises it")
	}
	if n := store.Stats().Reserve; n < layer.LeastReserve && (w.restarts == 0 || w.lastExit == upgraded) {
		events.Add("", "small-reserve", "reserve", n, "what", "too little to open the store after a crash on a full disk: the next `snapfs mount` takes "+showSize(layer.LeastReserve))
	}
	serving.Store(true)
	w.say(saidServing)
	refused := func(r refusalNote) {
		if !r.Again {
			events.Add("", "upgrade-failed", "error", r.Why)
		}
	}
	drain := func() {
		session.AwaitCommands(drainTime)
		if w.alone.Load() {
			return // there will be no other
		}
		log.printf("making room for another worker")
		events.Drain(drainEvents)
		os.Exit(exitDone)
	}
	go w.watch(refused, drain, func() {
		if w.stored {
			log.printf("the supervisor is gone: making room for the next one, which the service manager starts")
			events.Drain(drainEvents)
			os.Exit(exitDone)
		}
		what := "the supervisor is gone: nothing would take over; upgrade is no longer possible, umount is"
		if spec.foreground {
			what = "the supervisor is gone: serving until nobody uses the mount"
			end()
		}
		events.Add("", "unsupervised", "what", what)
	})
	over := make(chan struct{})
	if w.ending != detached {
		go func() {
			if endOnSignal(session, spec.mountpoint, log, signals, over) {
				w.say(saidDetached)
			}
		}()
	}
	err = session.Wait()
	close(over)
	keeper.close()
	if err == nil {
		err = w.close(store)
	} else {
		err = errors.Join(err, store.Close())
	}
	if err != nil {
		log.printf("closed %s with an error: %v", spec.store, err)
		return err
	}
	log.printf("closed %s", spec.store)
	return nil
}

// endNow ends the process after a commit that failed. It may be durable or not, so that no answer would be true: nobody
// gets one, and the next process says what is there.
func endNow(log *daemonLog, err error) {
	log.printf("ending at once, as by a kill: what is in the index is no longer certain: %v", err)
	os.Exit(exitFailed)
}
