package fs

// The descriptor that requests come from and answers go to.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

const (
	inHeader    = int(unsafe.Sizeof(fuse.InHeader{}))
	readHeader  = int(unsafe.Sizeof(fuse.ReadIn{}))
	writeHeader = int(unsafe.Sizeof(fuse.WriteIn{}))
	outHeader   = int(unsafe.Sizeof(fuse.OutHeader{}))
	writeAnswer = outHeader + int(unsafe.Sizeof(fuse.WriteOut{}))
)

// cloneRequest is FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32).
const cloneRequest = 0x8004e500

// device is one descriptor of the session. The kernel takes an answer only from the one that the request was read
// from.
type device struct {
	fd      int
	session *layer.Session
	logf    func(format string, args ...any)
}

// cloneDevice opens another descriptor of the same session.
func cloneDevice(first int) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, cloneRequest, first); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("clone the FUSE session: %w", err)
	}
	return fd, nil
}

// notifyResend is FUSE_NOTIFY_RESEND of the kernel's linux/fuse.h.
const notifyResend = 7

// resend has the kernel send all requests again that are read and not answered, each with the resent bit.
func (d device) resend() error {
	var p [outHeader]byte
	binary.NativeEndian.PutUint32(p[:], uint32(len(p)))
	binary.NativeEndian.PutUint32(p[4:], notifyResend)
	if _, err := unix.Write(d.fd, p[:]); err != nil {
		return fmt.Errorf("have the kernel send requests again (it can from Linux 6.9 on): %w", err)
	}
	return nil
}

// read waits for the next request and returns its length. When the session is over its error is gone.
func (d device) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(d.fd, p)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN, err == unix.ENOENT: // ENOENT: its caller gave up meanwhile
			continue
		case err == nil && n < inHeader:
			return 0, fmt.Errorf("the kernel sent a request of %d bytes", n)
		}
		return n, err
	}
}

// readWaiting reads a request if one waits, else nothing; the descriptor must not block.
func (d device) readWaiting(p []byte) (int, error) {
	for {
		n, err := unix.Read(d.fd, p)
		switch err {
		case unix.EINTR, unix.ENOENT:
			continue
		case unix.EAGAIN:
			return 0, nil
		}
		return n, err
	}
}

// answer sends an answer that is complete but for its header, for which it has room.
func (d device) answer(unique uint64, status fuse.Status, p []byte) {
	fillHeader(p, unique, status, len(p))
	d.send(p)
}

// send writes one whole answer.
func (d device) send(p []byte) {
	for again := true; again; {
		_, err := unix.Write(d.fd, p)
		again = d.sent(len(p), err)
	}
}

// answerStatus sends an answer without data.
func (d device) answerStatus(unique uint64, status fuse.Status) {
	var p [outHeader]byte
	d.answer(unique, status, p[:])
}

// answerWrite says, in p, that a WRITE of n bytes is done.
func (d device) answerWrite(p *[writeAnswer]byte, unique uint64, n uint32) {
	binary.NativeEndian.PutUint32(p[outHeader:], n)
	d.answer(unique, fuse.OK, p[:])
}

// answerFrom answers a READ with data from where they lie.
func (d device) answerFrom(unique uint64, data []byte) {
	var header [outHeader]byte
	n := outHeader + len(data)
	fillHeader(header[:], unique, fuse.OK, n)
	parts := [2]unix.Iovec{{Base: &header[0], Len: uint64(outHeader)}, {Base: &data[0], Len: uint64(len(data))}}
	for again := true; again; {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&parts)), uintptr(len(parts)))
		again = d.sent(n, errno)
	}
}

// fillHeader writes the header of an answer of n bytes, with it.
func fillHeader(p []byte, unique uint64, status fuse.Status, n int) {
	binary.NativeEndian.PutUint32(p, uint32(n))
	binary.NativeEndian.PutUint32(p[4:], uint32(-status))
	binary.NativeEndian.PutUint64(p[8:], unique)
}

// sent follows an answer of n bytes, of which err came, and says whether it has to be sent again.
func (d device) sent(n int, err error) (again bool) {
	switch {
	case err == unix.EINTR:
		return true
	case err == nil, err == syscall.Errno(0):
		d.session.SetAnswered()
	case err == unix.ENOENT, gone(err): // ENOENT: its caller was killed meanwhile
	default:
		d.logf("answer of %d bytes: %v", n, err)
	}
	return false
}

// gone says that the session is over: unmounted, or aborted by hand.
func gone(err error) bool {
	return errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EPERM)
}
