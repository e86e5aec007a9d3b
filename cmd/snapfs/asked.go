package main

// Signals that ask a mount to end. The first waits until nobody uses it any more, the second takes it out of the directory
// tree at once. A worker may die meanwhile: the supervisor knows how far that is, and tells the next one.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
)

// ending is how far it is.
type ending int

const (
	notAsked ending = iota
	asked
	askedTwice
	detached // what is at the mountpoint from here on is not ours
)

// next is after another signal.
func (e ending) next() ending {
	if e < askedTwice {
		return e + 1
	}
	return e
}

// endSignals ask a mount to end, theSignals are all of which a supervisor must not die: SIGHUP asks it for another version.
var (
	endSignals = []os.Signal{unix.SIGTERM, unix.SIGINT}
	theSignals = slices.Concat(endSignals, []os.Signal{unix.SIGHUP})
)

// catchSignals takes those given from before the store is mounted: a mount whose daemon one of them killed would be left
// behind dead. Those that came to an earlier process come again, and the context's end counts as one.
func catchSignals(ctx context.Context, e ending, which []os.Signal) (signals chan os.Signal, release func()) {
	signals = make(chan os.Signal, 4)
	if e != detached {
		for range e {
			signals <- unix.SIGTERM
		}
	}
	signal.Notify(signals, which...)
	signal.Ignore(unix.SIGPIPE) // whoever read our stderr may go; the disks must stay
	stop := context.AfterFunc(ctx, func() {
		select {
		case signals <- unix.SIGTERM:
		default: // more than enough came before
		}
	})
	return signals, func() {
		stop()
		signal.Stop(signals)
	}
}

// surviveSignals comes first in a program that a supervisor has become, which they would kill. Until catchSignals they are
// forgotten.
func surviveSignals() {
	if os.Getenv(keptEnv) != "" {
		signal.Notify(make(chan os.Signal, 1), theSignals...)
	}
}

// endOnSignal unmounts on a signal: as soon as nobody uses the mount any more. A second one detaches it from the directory
// tree; those who have files open keep them until they close them. It returns when there is nothing more to do, or end is
// closed, and says whether the mount is detached.
func endOnSignal(session *fs.Session, mountpoint string, log *daemonLog, signals <-chan os.Signal, end <-chan struct{}) bool {
	select {
	case <-end:
		return false
	case <-signals:
	}
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for told := false; ; told = true {
		err := session.Unmount()
		if err == nil {
			return false
		}
		if !told {
			log.printf("asked to end, serving on: %v", whyNot(mountpoint, err))
		}
		select {
		case <-end:
			return false
		case <-signals:
			if detach(mountpoint, log) {
				return true
			}
		case <-retry.C:
		}
	}
}

// detach takes the mount out of the directory tree, whoever uses it, and reports whether it could.
func detach(mountpoint string, log *daemonLog) bool {
	if err := unmountLazily(mountpoint); err != nil {
		log.printf("detaching %s: %v", mountpoint, err)
		return false
	}
	log.printf("detached from %s; ending when the last open file is closed", mountpoint)
	return true
}

// whyNot explains a failed unmount.
func whyNot(mountpoint string, err error) error {
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	m, mountErr := mountAtPoint(mountpoint)
	if mountErr != nil || m == nil {
		return err
	}
	return fmt.Errorf("%w (a second signal detaches the mount now)", busyError(*m))
}
