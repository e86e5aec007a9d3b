package layer

// The reclaimer: the queue of what is to be given back, and the goroutine that works on it.

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// reclaimer works on a queue, one job at a time. It may stop anywhere: what it has done is in the index, and a start
// queues every retired layer again.
//
// A block of a retired layer is dead when every layer right over it covers it, with its own bits or its cut, or, where
// that is retired too, when all over that one do. Only what is committed counts: a head's unflushed write can be lost
// with the host, and then the old block must be there.
//
//	clear the bits, record what to punch      crash: the start punches
//	wait for the epochs, punch                crash: the start punches again, which does no harm
//	sync the data file                        crash: the same
//	drop what was recorded
type reclaimer struct {
	store   *Store
	pending atomic.Int64 // bytes of data known to be dead, not given back yet

	punched []punch     // by run alone: holes to be synced, with what of their records they settle
	left    []*layer    // by run alone: layers that left, with files to remove
	failed  map[job]int // by run alone: jobs that failed, and how often

	mu      sync.Mutex // guards what follows
	wake    *sync.Cond
	queue   []job // what may have layers leave, and their files
	later   []job // parts of layers that go on: many, and the longer they wait the more of them come to one
	queued  map[job]bool
	running bool
	closed  bool
	givenUp map[layerRegion]blockmap.Bitmap // by heads, since what is to be punched there was last looked up
	done    chan struct{}
}

// job is a retired layer to look through, one region of it, blocks to punch, or a lineage to merge into its parent.
type job struct {
	layer  *layer
	whole  bool
	region uint64
	punch  bool
	merge  *lineage
}

func newReclaimer(s *Store) *reclaimer {
	r := &reclaimer{store: s, queued: make(map[job]bool), done: make(chan struct{})}
	r.wake = sync.NewCond(&r.mu)
	return r
}

func (r *reclaimer) start() {
	r.mu.Lock()
	r.running = true
	r.mu.Unlock()
	go r.run()
}

func (r *reclaimer) close() {
	r.mu.Lock()
	r.closed = true
	running := r.running
	r.wake.Broadcast()
	r.mu.Unlock()
	if running {
		<-r.done
	}
}

func (r *reclaimer) add(jobs ...job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range jobs {
		switch {
		case r.queued[j]:
			continue
		case j.whole || j.merge != nil:
			r.queue = append(r.queue, j)
		default:
			r.later = append(r.later, j)
		}
		r.queued[j] = true
	}
	r.wake.Signal()
}

func (r *reclaimer) stopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

func (r *reclaimer) run() {
	defer close(r.done)
	for {
		jobs, ok := r.next()
		unsettled := len(r.punched) + len(r.left)
		switch {
		case ok && unsettled >= settleAtOnce:
			r.add(jobs...)
			r.ended(job{}, r.settle())
		case ok && jobs[0].punch:
			r.punchAll(jobs)
		case ok:
			r.ended(jobs[0], r.do(jobs[0]))
		case unsettled > 0:
			r.ended(job{}, r.settle())
		default:
			return
		}
	}
}

// ended follows a job, of which err came. The zero job is settling.
func (r *reclaimer) ended(j job, err error) {
	if err != nil {
		r.tryAgain(j, err)
		return
	}
	delete(r.failed, j)
}

// maxTries of a job that fails by anything but a full disk; a start tries again.
const maxTries = 3

// retryEvery is how long a job that failed waits; tests don't have that long.
var retryEvery = time.Second

// tryAgain queues a job that failed once more, and waits a little.
func (r *reclaimer) tryAgain(j job, err error) {
	if r.failed == nil {
		r.failed = make(map[job]int)
	}
	if r.failed[j]++; r.failed[j] == 1 {
		r.store.opts.Event("", "reclaim-failed", "error", err.Error())
	}
	switch {
	case r.stopped(), Errno(err) != syscall.ENOSPC && r.failed[j] >= maxTries:
		delete(r.failed, j)
		if j == (job{}) {
			r.punched, r.left = nil, nil
		}
		return
	case j != (job{}):
		r.add(j)
	}
	select {
	case <-r.store.stop:
	case <-time.After(retryEvery):
	}
}

// next takes a job off the queues, or several holes to punch, and waits for one unless something is to be settled first. ok
// is false if there is none, or the reclaimer closes.
func (r *reclaimer) next() (jobs []job, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue)+len(r.later) == 0 && !r.closed && len(r.punched)+len(r.left) == 0 {
		r.queue, r.later = nil, nil // gives their memory back
		r.wake.Wait()
	}
	queue := &r.queue
	if len(*queue) == 0 {
		queue = &r.later
	}
	if r.closed || len(*queue) == 0 {
		return nil, false
	}
	n, first := 1, (*queue)[0]
	for first.punch && n < min(len(*queue), settleAtOnce) && (*queue)[n].punch {
		n++
	}
	jobs, *queue = (*queue)[:n:n], (*queue)[n:]
	for _, j := range jobs {
		delete(r.queued, j)
	}
	return jobs, true
}
