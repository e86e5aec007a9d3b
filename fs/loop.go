package fs

// A reader loop: takes requests from one descriptor, answers READ, WRITE and FSYNC, hands the rest to goroutines.

import (
	"bytes"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// copyLimit is the size in bytes up to which a READ or WRITE that has to wait goes through memory of its own. A larger
// one takes a whole buffer: a WRITE that which it came in, as copying would cost more than another one for the loop.
const copyLimit = 64 << 10

// loop serves what waits its turn, or else what it reads from dev, until the session ends. buf is where the next request
// goes; its data are the loop's alone unless a goroutine took the buffer and left another.
type loop struct {
	s    *Session
	dev  device
	slot *layer.Slot // which request it is at
	buf  *buffer
	at   request           // the last one that was read
	rest int               // so many requests are served before it reads ahead again
	done [writeAnswer]byte // a WRITE's answer

	thread atomic.Int64 // its thread's id
	ended  atomic.Bool
	extra  bool // it ends when it is no longer needed
}

// run serves until the mount is gone, on a thread of its own: what the kernel wakes is then what goes on.
func (l *loop) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.ended.Store(true)
	l.thread.Store(int64(unix.Gettid()))
	takeShortTurns()
	l.buf = l.s.pool.get()
	defer func() { l.s.pool.put(l.buf) }()
	for !l.extra || l.s.relief.slow.Load() || l.s.turns.queued.Load() > 0 {
		if w := l.s.turns.take(); w != nil {
			l.take(&w.request)
			w.done(&l.s.pool)
		} else if n, err := l.next(); err != nil {
			if gone(err) {
				return nil
			}
			return err
		} else if n > 0 {
			l.take(l.arrived(l.dev, n))
			l.refill()
		}
		l.readAhead()
	}
	return nil
}

// takeShortTurns has the calling thread ask for the least that the scheduler gives at a time: from Linux 6.12 on it then
// comes before a thread that asks for more, in the middle of that one's turn. Otherwise a request waits for as long as a sync
// of this process, or whatever else runs, has its processor, which is a millisecond or two. Its share stays what it is.
func takeShortTurns() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Runtime: uint64(100 * time.Microsecond)}, 0)
}

// next waits for a request and returns its length; 0: one is queued meanwhile.
func (l *loop) next() (int, error) {
	idle := &l.s.turns.idle
	idle.Add(1)
	defer idle.Add(-1)
	if l.s.turns.queued.Load() > 0 {
		return 0, nil
	}
	n, err := l.dev.read(l.buf.request())
	l.s.turns.came.Add(1)
	return n, err
}

// readAhead reads what waits in the kernel. If nothing does, nor much in queues, it does not look for a
// while.
func (l *loop) readAhead() {
	if l.s.aside == nil {
		return
	}
	if l.rest > 0 {
		l.rest--
		return
	}
	for range aheadAtOnce {
		if !l.s.turns.wanted() {
			return
		}
		n, err := l.s.aside.readWaiting(l.buf.request())
		if err != nil || n < inHeader { // who waits for the kernel will be told what it is
			if l.s.turns.queued.Load() < aheadFew {
				l.rest = aheadRest
			}
			return
		}
		l.queue(l.arrived(*l.s.aside, n))
		l.refill()
	}
}

// queue has a request wait its turn, if it is one that a loop answers by itself.
func (l *loop) queue(r *request) {
	switch opcodeOf(r.p) {
	case opRead, opWrite, opFsync:
		if vm, ok := l.s.files.diskOf(nodeOf(r.p)); ok && uniqueOf(r.p)&resent == 0 {
			l.s.turns.put(vm, r)
			return
		}
	}
	l.take(r)
}

// arrived is a request of n bytes that was read.
func (l *loop) arrived(dev device, n int) *request {
	l.at = request{dev, l.buf.request()[:n], l.buf}
	return &l.at
}

// refill sees to it that there is a buffer for the next one.
func (l *loop) refill() {
	if l.at.buf == nil {
		l.buf = l.s.pool.get()
	}
}

// take has a request served. It is noted until it is answered or somebody else has it.
func (l *loop) take(r *request) {
	unique := uniqueOf(r.p)
	l.slot.Store(unique &^ resent)
	if unique&resent == 0 {
		l.serve(r)
	} else {
		l.s.serveAgain(r.dev, bytes.Clone(r.p))
	}
	l.slot.Store(0)
}

// serve answers a request or sees to it that somebody does.
func (l *loop) serve(r *request) {
	req := r.p
	if fault := l.s.files.options.Fault; fault != nil {
		fault(req)
	}
	header := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
	switch header.Opcode {
	case opForget, opBatchForget: // nothing is kept per node
	case opInterrupt: // no request is given up halfway: QEMU takes EINTR for a broken disk
	case opRead:
		l.read(r)
	case opWrite:
		l.write(r)
	case opFsync:
		l.fsync(r)
	case opStatx:
		r.dev.answerStatus(header.Unique, fuse.ENOSYS) // the kernel then uses GETATTR
	default:
		l.s.spawn(r.dev, bytes.Clone(req))
	}
}

// read answers a READ, at once if the store can.
func (l *loop) read(r *request) {
	req := r.p
	if len(req) < readHeader {
		r.dev.answerStatus((*fuse.InHeader)(unsafe.Pointer(&req[0])).Unique, fuse.EIO)
		return
	}
	in := *(*fuse.ReadIn)(unsafe.Pointer(&req[0])) // a copy: the answer takes the place of the request
	if l.s.relief.slow.Load() {
		l.s.readLater(r.dev, in)
		return
	}
	size := min(in.Size, maxIO)
	data, lent, err := l.s.files.tryRead(&in, l.buf.data()[:size])
	switch {
	case lent.Any():
		r.dev.answerFrom(in.Unique, data)
		lent.GiveBack()
	case err == nil:
		r.dev.answer(in.Unique, fuse.OK, l.buf.answer(len(data)))
	case err == layer.ErrWait:
		l.s.readLater(r.dev, in)
	default:
		l.s.failLater(r.dev, &in.InHeader, "read", err)
	}
}

// write answers a WRITE, at once if the store can.
func (l *loop) write(r *request) {
	req := r.p
	in := (*fuse.WriteIn)(unsafe.Pointer(&req[0]))
	if len(req) < writeHeader || len(req) != writeHeader+int(in.Size) {
		r.dev.answerStatus(in.Unique, fuse.EIO)
		return
	}
	err := error(layer.ErrWait)
	if !l.s.relief.slow.Load() {
		err = l.s.files.write(in, req[writeHeader:], false)
	}
	if err == layer.ErrWait {
		l.writeLater(r)
		return
	}
	if err == nil && through(in) {
		l.syncWritten(r.dev, *in)
		return
	}
	if err != nil {
		l.s.failLater(r.dev, &in.InHeader, "write", err)
		return
	}
	r.dev.answerWrite(&l.done, in.Unique, in.Size)
}

// syncWritten goes on with a WRITE that is to be on disk when it is answered. With O_SYNC times are committed, too.
func (l *loop) syncWritten(d device, in fuse.WriteIn) {
	if in.Flags&unix.O_SYNC != unix.O_DSYNC {
		l.s.syncLater(d, in)
		return
	}
	l.sync(&in.InHeader, func(err error) {
		switch err {
		case nil:
			d.answerWrite(new([writeAnswer]byte), in.Unique, in.Size)
		case layer.ErrWait:
			l.s.syncLater(d, in)
		default:
			l.s.failLater(d, &in.InHeader, "write", err)
		}
	})
}

// fsync answers an FSYNC, by itself if nothing has to be committed. Times, which fdatasync leaves out, are.
func (l *loop) fsync(r *request) {
	if len(r.p) < int(unsafe.Sizeof(fuse.FsyncIn{})) {
		l.s.spawn(r.dev, bytes.Clone(r.p))
		return
	}
	d, in := r.dev, *(*fuse.FsyncIn)(unsafe.Pointer(&r.p[0]))
	if in.FsyncFlags&fsyncDataOnly == 0 || l.s.relief.slow.Load() {
		l.s.spawn(d, bytes.Clone(r.p))
		return
	}
	l.sync(&in.InHeader, func(err error) {
		switch err {
		case nil:
			d.answerStatus(in.Unique, fuse.OK)
		case layer.ErrWait:
			l.s.spawn(d, bytesOf(&in))
		default:
			l.s.failLater(d, &in.InHeader, "fsync", err)
		}
	})
}

// sync has a file synced if that waits for the disk and nothing else; done gets how it ended, layer.ErrWait if there is more to
// wait for, in whichever goroutine. Handing a sync over takes a fourth of the time that a disk takes for it. Half of the
// loops at most wait, so that the other half serves who does not.
func (l *loop) sync(h *fuse.InHeader, done func(error)) {
	s, session := l.s, l.dev.session
	slot := session.NoteHanded(h.Unique)
	s.running.Add(1)
	ended := func(err error) {
		done(err)
		session.EndHanded(slot)
		s.running.Done()
	}
	defer s.syncing.Add(-1)
	if s.syncing.Add(1) > int32(len(s.devices)/2) {
		ended(layer.ErrWait)
		return
	}
	s.files.trySync(node(h.NodeId), ended)
}

// bytesOf are those of a request.
func bytesOf(in *fuse.FsyncIn) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(in)), unsafe.Sizeof(*in)))
}

// writeLater hands a WRITE to a goroutine.
func (l *loop) writeLater(r *request) {
	if len(r.p) <= copyLimit || r.buf == nil {
		l.s.writeLater(r.dev, bytes.Clone(r.p), nil)
		return
	}
	l.s.writeLater(r.dev, r.p, r.buf)
	r.buf = nil
}
