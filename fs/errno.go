package fs

// Errors: the one place where they become what the kernel gets.

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// statusOf maps an error to the kernel's. Never ENOSYS: from FSYNC that would make the kernel report success for
// every later one.
func statusOf(err error) fuse.Status { return fuse.Status(layer.Errno(err)) }

// failures writes failed operations to the event log. A guest that gets the same error for every write would push
// all else out of the log, so the same one is told once a second, with how many there were.
type failures struct {
	log *EventLog

	mu   sync.Mutex
	last map[failure]*times
}

type failure struct {
	vm, op string
	errno  syscall.Errno
}

type times struct {
	told   time.Time
	untold int
}

// quietTime is for how long a failure like one just told is only counted.
const quietTime = time.Second

func newFailures(log *EventLog) *failures {
	return &failures{log: log, last: make(map[failure]*times)}
}

// status notes that op failed, unless err is nil, and maps the error.
func (f *failures) status(vm, op string, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	errno := layer.Errno(err)
	untold, tell := f.count(failure{vm, op, errno}, time.Now())
	if tell {
		attrs := []any{"errno", unix.ErrnoName(errno), "error", err}
		if untold > 0 {
			attrs = append(attrs, "repeated", untold)
		}
		f.log.Add(vm, op+"-failed", attrs...)
	}
	return fuse.Status(errno)
}

// count says whether to tell of a failure now, and how many like it were passed over before.
func (f *failures) count(key failure, now time.Time) (untold int, tell bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.last[key]
	if t != nil && now.Sub(t.told) < quietTime {
		t.untold++
		return 0, false
	}
	if t == nil {
		f.dropOld(now)
		t = new(times)
		f.last[key] = t
	}
	untold, t.untold, t.told = t.untold, 0, now
	return untold, true
}

// dropOld keeps the table small.
func (f *failures) dropOld(now time.Time) {
	if len(f.last) < keptEvents {
		return
	}
	for key, t := range f.last {
		if now.Sub(t.told) >= quietTime {
			delete(f.last, key)
		}
	}
}
