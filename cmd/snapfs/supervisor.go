package main

// The supervisor: mounts, keeps what the kernel and the workers of a mount share, and starts a worker whenever there is
// none. Guests wait for the next worker; they do not notice otherwise.
//
// It holds the descriptors of the FUSE session, also those that only the worker reads: when the last holder of one dies,
// the kernel ends the requests that were read through it with an error.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// startPauses are before the workers that follow the first, second … in a row that answered nothing; behind the last of
// them the supervisor gives up. Guests would rather wait than lose their disks, and what keeps workers from starting may
// pass: a host short of memory, a disk that is away. In all it is less than the 30 s that Linux gives a SCSI disk. A full
// disk is waited for, until somebody makes room or asks for the end twice: as long as guests do, nothing is lost.
var startPauses = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 15 * time.Second}

// fullPause is before another worker tries whether somebody has made room.
const fullPause = time.Second

// isFull says whether a store's file system has less room than opening the store may take.
func isFull(store string) bool {
	var st unix.Statfs_t
	return unix.Statfs(store, &st) == nil && int64(st.Bavail)*st.Bsize < layer.LeastReserve
}

// supervisor is one mount's.
type supervisor struct {
	spec     mountSpec
	log      *daemonLog
	ready    func()
	manager  manager
	signals  chan os.Signal
	session  *layer.Session
	store    *os.File // its directory, wherever that is by now; nil in the foreground
	devices  []int    // once mounted
	restarts int
	lastExit string
	failed   int  // starts in a row
	full     bool // the store's file system is, too full for the last worker
	told     bool // the log has been, of how the last worker ended
	over     bool // the mount is, whatever became of its store
	ending   ending
	upgrade  upgrade
}

// supervise runs a mount until it is unmounted, and calls ready once it answers. A cancelled context asks it to end, as a
// signal does. What was kept of the mount, if anything was, is gone on with.
func (a *app) supervise(ctx context.Context, spec mountSpec, log *daemonLog, ready func(), kept *handover) error {
	s, err := newSupervisor(spec, log, ready, kept)
	if err != nil {
		return err
	}
	signals, release := catchSignals(ctx, notAsked, theSignals)
	defer release()
	s.signals = signals
	for {
		s.session.Renew()
		replaced, err := s.run()
		if replaced {
			s.restarts++
			s.lastExit = s.replace()
			continue
		}
		if over, err := s.isOver(err); over {
			return err
		}
		s.restarts++
		s.rest()
	}
}

// newSupervisor begins with nothing, or with what was kept.
func newSupervisor(spec mountSpec, log *daemonLog, ready func(), k *handover) (s *supervisor, err error) {
	s = &supervisor{spec: spec, log: log, ready: ready, manager: managerOf(spec), upgrade: upgrade{tried: make(chan error, 1)}}
	if s.upgrade.program, err = os.Executable(); err != nil {
		return nil, err
	}
	if k == nil {
		s.session, err = layer.NewSessionFor(spec.store)
		return s, err
	}
	err = s.adopt(k)
	switch {
	case err == nil:
		return s, nil
	case k.Old != 0:
		return nil, s.returnTo(k, err)
	}
	return nil, fmt.Errorf("the mount waits for the version that served it before: %w", err)
}

// adopt goes on with what was kept.
func (s *supervisor) adopt(k *handover) (err error) {
	s.devices, s.restarts, s.lastExit, s.ending = k.Devices, k.Restarts, k.LastExit, k.Ending
	s.upgrade.adopt(k)
	if s.upgrade.format, err = layer.FormatOf(s.spec.store); layer.Errno(err) == unix.EINVAL {
		return err // no worker of this version would serve it
	}
	if s.session, err = layer.AdoptSession(k.Session); err != nil || s.spec.foreground {
		return err
	}
	return s.openLog()
}

// openLog also keeps hold of the store's directory: if it is away when the supervisor gives up, the event is to go along.
func (s *supervisor) openLog() (err error) {
	if s.store, err = os.Open(s.spec.store); err != nil {
		return err
	}
	return s.log.open(filepath.Join(s.spec.store, "log"))
}

// run starts a worker and goes along with it to its end: without an error, if it is the mount's, too.
func (s *supervisor) run() (replaced bool, err error) {
	s.full = false
	w, err := s.start()
	if err != nil {
		return false, err
	}
	err = s.follow(w)
	return w.replaced, err
}

// isOver says, after a worker's end, whether there is to be no other, and how it went then.
func (s *supervisor) isOver(end error) (over bool, err error) {
	blamed := 0
	if crashed(end) {
		blamed = s.session.Blame()
	}
	switch {
	case end == nil || s.over:
		s.tell("STOPPING=1", "STATUS=unmounted")
		s.letGo()
		return true, end
	case s.devices == nil && (errors.As(end, new(refusedBy)) || s.ending != notAsked):
		return true, end
	case s.upgrade.old != 0 && !s.session.Answered():
		end = s.goBack(end)
	}
	if s.failed++; s.session.Answered() || blamed > 0 { // requests are blamed so often at most, and answered then
		s.failed = 0
	}
	if s.failed > 0 && s.devices != nil && crashed(end) { // it writes through mappings, and others may have been quicker to take the room for that
		s.full = s.full || isFull(s.spec.store)
	}
	if s.full && s.ending < askedTwice {
		s.failed = min(s.failed, len(startPauses))
	}
	if ended := howEnded(end, blamed); !s.full || s.lastExit != ended {
		s.lastExit, s.told = ended, false
	}
	if s.failed > len(startPauses) {
		return true, s.giveUp()
	}
	return false, nil
}

// giveUp leaves a mount that no worker can serve, and an event for who mounts it again.
func (s *supervisor) giveUp() error {
	err := fmt.Errorf("%d workers in a row ended before they answered anything, the last one by: %s", s.failed, s.lastExit)
	s.log.printf("gave up: %v", err)
	dir := s.spec.store
	if s.store != nil {
		dir = fmt.Sprintf("/proc/self/fd/%d", s.store.Fd())
	}
	file, _, openErr := openEvents(filepath.Join(dir, "events"), eventsSize)
	if openErr != nil {
		s.log.printf("no event tells of it: %v", openErr)
		return err
	}
	events := fs.NewEventLog(file)
	events.Add("", "gave-up", "workers", s.failed, "last", s.lastExit)
	events.Drain(drainEvents)
	return err
}

// rest comes between two workers. Who asks for another version, or for the end of what was not mounted yet, does not
// wait.
func (s *supervisor) rest() {
	s.tell("STATUS=starting another worker, as one ended: " + s.lastExit)
	if s.failed == 0 {
		s.log.printf("the worker ended: %s; starting another", s.lastExit)
		return
	}
	pause := startPauses[s.failed-1]
	switch {
	case !s.full:
		s.log.printf("the worker ended: %s; starting another in %v", s.lastExit, pause)
	case !s.told:
		s.log.printf("the worker ended: %s; starting another again and again, until there is room", s.lastExit)
		s.told = true
		fallthrough
	default:
		pause = min(pause, fullPause)
	}
	for over := time.After(pause); s.devices != nil || s.ending == notAsked; {
		select {
		case <-over:
			return
		case sig := <-s.signals:
			s.heed(sig)
			if sig == unix.SIGHUP {
				return
			}
		}
	}
}

// heed notes what a signal asks for.
func (s *supervisor) heed(sig os.Signal) {
	switch {
	case sig != unix.SIGHUP:
		s.ending = s.ending.next()
	case s.devices != nil: // otherwise there is nothing to go on with
		s.failed = 0
		s.tryNext()
	}
}

// tell says how the mount stands, to whom it may concern.
func (s *supervisor) tell(lines ...string) {
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	if err := s.manager.say(lines); err != nil {
		s.log.printf("%v", err)
	}
}

// letGo has nobody keep a mount that is over.
func (s *supervisor) letGo() {
	if err := s.manager.drop(); err != nil {
		s.log.printf("%v", err)
	}
}
