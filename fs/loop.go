package fs

// A reader loop: takes requests from one descriptor, answers READ, WRITE and FSYNC, hands the rest to goroutines.

import (
	"bytes"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// copyLimit is the size in bytes up to which a READ or WRITE that has to wait goes through memory of its own. A larger
// one takes a whole buffer: a WRITE that which it came in, as copying would cost more than another one for the loop.
const copyLimit = 64 << 10

// loop reads from dev until the session ends. buf is where the next request goes; its data are the loop's alone
// unless a goroutine took the buffer and left another.
type loop struct {
	s    *Session
	dev  device
	slot *layer.Slot // which request it is at
	buf  *buffer
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
	l.buf = l.s.pool.get()
	defer func() { l.s.pool.put(l.buf) }()
	for !l.extra || l.s.relief.slow.Load() {
		n, err := l.next()
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		l.take(l.buf.request()[:n])
	}
	return nil
}

// take has a request served that was just read. It is noted until it is answered or somebody else has it.
func (l *loop) take(req []byte) {
	unique := uniqueOf(req)
	l.slot.Store(unique &^ resent)
	if unique&resent == 0 {
		l.serve(req)
	} else {
		l.s.serveAgain(l.dev, bytes.Clone(req))
	}
	l.slot.Store(0)
}

// next waits for a request. Polling before blocking would go here.
func (l *loop) next() (int, error) { return l.dev.read(l.buf.request()) }

// serve answers a request or sees to it that somebody does.
func (l *loop) serve(req []byte) {
	if fault := l.s.files.options.Fault; fault != nil {
		fault(req)
	}
	header := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
	switch header.Opcode {
	case opForget, opBatchForget: // nothing is kept per node
	case opInterrupt: // no request is given up halfway: QEMU takes EINTR for a broken disk
	case opRead:
		l.read(req)
	case opWrite:
		l.write(req)
	case opFsync:
		l.fsync(req)
	case opStatx:
		l.dev.answerStatus(header.Unique, fuse.ENOSYS) // the kernel then uses GETATTR
	default:
		l.s.spawn(l.dev, bytes.Clone(req))
	}
}

// read answers a READ, at once if the store can.
func (l *loop) read(req []byte) {
	if len(req) < readHeader {
		l.dev.answerStatus((*fuse.InHeader)(unsafe.Pointer(&req[0])).Unique, fuse.EIO)
		return
	}
	in := *(*fuse.ReadIn)(unsafe.Pointer(&req[0])) // a copy: the answer takes the place of the request
	if l.s.relief.slow.Load() {
		l.s.readLater(l.dev, in)
		return
	}
	size := min(in.Size, maxIO)
	n, err := l.s.files.read(&in, l.buf.data()[:size], false)
	switch err {
	case nil:
		l.dev.answer(in.Unique, fuse.OK, l.buf.answer(n))
	case layer.ErrWait:
		l.s.readLater(l.dev, in)
	default:
		l.s.failLater(l.dev, &in.InHeader, "read", err)
	}
}

// write answers a WRITE, at once if the store can.
func (l *loop) write(req []byte) {
	in := (*fuse.WriteIn)(unsafe.Pointer(&req[0]))
	if len(req) < writeHeader || len(req) != writeHeader+int(in.Size) {
		l.dev.answerStatus(in.Unique, fuse.EIO)
		return
	}
	err := error(layer.ErrWait)
	if !l.s.relief.slow.Load() {
		err = l.s.files.write(in, req[writeHeader:], false)
	}
	if err == layer.ErrWait {
		l.writeLater(req)
		return
	}
	if err == nil && through(in) {
		err = layer.ErrWait
		if in.Flags&unix.O_SYNC == unix.O_DSYNC { // with O_SYNC times are committed, too
			err = l.sync(node(in.NodeId))
		}
		if err == layer.ErrWait {
			l.s.syncLater(l.dev, *in)
			return
		}
	}
	if err != nil {
		l.s.failLater(l.dev, &in.InHeader, "write", err)
		return
	}
	l.dev.answerWrite(&l.done, in.Unique, in.Size)
}

// fsync answers an FSYNC, by itself if nothing has to be committed. Times, which fdatasync leaves out, are.
func (l *loop) fsync(req []byte) {
	in := (*fuse.FsyncIn)(unsafe.Pointer(&req[0]))
	err := layer.ErrWait
	if len(req) >= int(unsafe.Sizeof(*in)) && in.FsyncFlags&fsyncDataOnly != 0 && !l.s.relief.slow.Load() {
		err = l.sync(node(in.NodeId))
	}
	switch err {
	case nil:
		l.dev.answerStatus(in.Unique, fuse.OK)
	case layer.ErrWait:
		l.s.spawn(l.dev, bytes.Clone(req))
	default:
		l.s.failLater(l.dev, &in.InHeader, "fsync", err)
	}
}

// sync waits for the disk and nothing else, or returns layer.ErrWait: handing a sync over to a goroutine takes a fourth of
// the time that a disk takes for it. Half of the loops at most wait, so that the other half serves who does not.
func (l *loop) sync(n node) error {
	defer l.s.syncing.Add(-1)
	if l.s.syncing.Add(1) > int32(len(l.s.devices)/2) {
		return layer.ErrWait
	}
	return l.s.files.trySync(n)
}

// writeLater hands a WRITE to a goroutine.
func (l *loop) writeLater(req []byte) {
	if len(req) <= copyLimit {
		l.s.writeLater(l.dev, bytes.Clone(req), nil)
		return
	}
	taken := l.buf
	l.buf = l.s.pool.get()
	l.s.writeLater(l.dev, req, taken)
}
