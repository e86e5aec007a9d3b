package fs

// Turns. The kernel hands requests out in the order in which they came: the next one of a VM would wait behind the hundreds
// that another VM has under way. So when all loops are busy, they take from the kernel what waits there, through a
// descriptor that does not block, put it into a queue for each VM, and serve the VMs in turn.
//
// Nothing is left lying in a queue. A loop reads ahead only while no other is idle, that is: waits for the kernel, which
// would wake it for the very same request. Who is not idle comes back to the queues before it is: it counts itself
// as idle first and looks at the queues then, while one that reads ahead looks for idle ones first. What both miss, as
// one turns idle while another reads, is a single request, which the latter goes on to take itself. That it waits
// within a request of before is what the watchman (relief.go) and the bound on loops that sync are for.

import (
	"sync"
	"sync/atomic"

	"github.com/snapfs/snapfs/layer"
)

const (
	// aheadAtOnce is how many requests a loop reads between two that it serves: what waits gets less as long as that is
	// more than one.
	aheadAtOnce = 8

	// aheadRest is how many requests a loop serves, after it found that nothing waits, before it looks again, if there are
	// fewer than aheadFew in queues: looking is a system call.
	aheadRest = 3
	aheadFew  = 32

	// aheadRequests and aheadBytes are how much lies in queues at most. What comes then waits in the kernel.
	aheadRequests = 16 << 10
	aheadBytes    = 64 << 20

	// aloneAfterPuts is after how many requests of one VM, with none of others between them, it counts as the only one. Of
	// its WRITEs of more than a block one lies in a queue at most: what was just written into a few buffers
	// by turns is still in the processor's cache when it is read again, what lies in many of them is not.
	aloneAfterPuts = 1 << 10
)

// request is one that a loop is at.
type request struct {
	dev device  // it came through, and its answer will go
	p   []byte  // all of it
	buf *buffer // in which p lies: nil if that is other memory, or somebody who goes on with it has taken it
}

// turns are the queues.
type turns struct {
	idle   atomic.Int32  // loops that wait for the kernel
	came   atomic.Uint64 // requests that loops waited for
	queued atomic.Int32  // requests
	bytes  atomic.Int64  // of memory that they lie in
	large  atomic.Int32  // those of more than a block
	others atomic.Int32  // how many more of the last one's VM come before that counts as the only one

	mu          sync.Mutex // guards what follows
	of          map[layer.VMID]*queue
	lately      layer.VMID // whose the last one was
	first, last *queue     // of those that are not empty, in turn
}

// queue is a VM's.
type queue struct {
	first, last *waiting
	next        *queue
}

// waiting is a request that was read ahead.
type waiting struct {
	request
	mem  []byte // where p lies, if not in buf
	next *waiting
}

// wanted says whether requests should be read ahead.
func (t *turns) wanted() bool {
	return t.idle.Load() == 0 && t.queued.Load() < aheadRequests && t.bytes.Load() < aheadBytes &&
		(t.large.Load() == 0 || t.others.Load() > 0)
}

// put has a request wait for its VM's turn. The memory that it lies in is the caller's again, unless r.buf is nil then.
func (t *turns) put(vm layer.VMID, r *request) {
	w := keep(r, t.others.Load() > 0)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(w, 1)
	if vm != t.lately {
		t.lately = vm
		t.others.Store(aloneAfterPuts)
	} else if t.others.Load() > 0 {
		t.others.Add(-1)
	}
	q := t.of[vm]
	if q == nil {
		q = new(queue)
		if t.of == nil {
			t.of = make(map[layer.VMID]*queue)
		}
		t.of[vm] = q
	}
	if q.first != nil {
		q.last.next, q.last = w, w
		return
	}
	q.first, q.last = w, w
	t.append(q)
}

func (t *turns) append(q *queue) {
	if t.first == nil {
		t.first = q
	} else {
		t.last.next = q
	}
	t.last = q
}

// take returns what is next: the oldest request of the VM that has waited longest since its last one. nil: none waits.
func (t *turns) take() *waiting {
	if t.queued.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.first
	if q == nil {
		return nil
	}
	t.first, q.next = q.next, nil
	w := q.first
	q.first, w.next = w.next, nil
	if q.first != nil {
		t.append(q)
	}
	t.count(w, -1)
	return w
}

func (t *turns) count(w *waiting, n int32) {
	t.queued.Add(n)
	t.bytes.Add(int64(n) * w.size())
	if len(w.p) > writeHeader+pageSize {
		t.large.Add(n)
	}
}

// kept is memory for requests that wait, by its size: what most are, a READ or a WRITE of a block, and all up to copyLimit.
var kept = [...]struct {
	size int
	pool sync.Pool
}{{size: 128}, {size: writeHeader + pageSize}, {size: copyLimit}}

// keep puts a request where it can wait: a copy, or if it is large the buffer that it came in. Where few wait there are
// buffers enough.
func keep(r *request, many bool) *waiting {
	for i := range kept {
		if k := &kept[i]; len(r.p) <= k.size && (many || k.size < copyLimit) {
			w, _ := k.pool.Get().(*waiting)
			if w == nil {
				w = &waiting{mem: make([]byte, k.size)}
			}
			w.request = request{dev: r.dev, p: w.mem[:copy(w.mem, r.p)]}
			return w
		}
	}
	w := &waiting{request: *r}
	r.buf = nil
	return w
}

// size is how much memory it takes, in bytes.
func (w *waiting) size() int64 {
	if w.mem == nil {
		return pageSize + maxIO
	}
	return int64(len(w.mem))
}

// done gives the memory of a request back that was served.
func (w *waiting) done(p *pool) {
	if w.buf != nil {
		p.put(w.buf)
	}
	for i := range kept {
		if k := &kept[i]; len(w.mem) == k.size {
			k.pool.Put(w)
		}
	}
}
