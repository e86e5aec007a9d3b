package fs

// A reader loop: takes requests from one descriptor, answers READ and WRITE, hands the rest to goroutines.

import (
	"bytes"
	"runtime"
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
}

// run serves until the mount is gone, on a thread of its own: what the kernel wakes is then what goes on.
func (l *loop) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l.buf = l.s.pool.get()
	defer func() { l.s.pool.put(l.buf) }()
	for {
		n, err := l.next()
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		req := l.buf.request()[:n]
		unique := (*fuse.InHeader)(unsafe.Pointer(&req[0])).Unique
		l.slot.Store(unique &^ resent)
		if unique&resent == 0 {
			l.serve(req)
		} else {
			l.s.serveAgain(l.dev, bytes.Clone(req))
		}
		l.slot.Store(0)
	}
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

// write answers a WRITE, at once if the store can and the caller does not want it on disk.
func (l *loop) write(req []byte) {
	in := (*fuse.WriteIn)(unsafe.Pointer(&req[0]))
	if len(req) < writeHeader || len(req) != writeHeader+int(in.Size) {
		l.dev.answerStatus(in.Unique, fuse.EIO)
		return
	}
	if in.Flags&unix.O_DSYNC != 0 {
		l.writeLater(req)
		return
	}
	switch err := l.s.files.write(in, req[writeHeader:], false); err {
	case nil:
		l.dev.answerWrite(&l.done, in.Unique, in.Size)
	case layer.ErrWait:
		l.writeLater(req)
	default:
		l.s.failLater(l.dev, &in.InHeader, "write", err)
	}
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
