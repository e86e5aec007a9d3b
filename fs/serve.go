package fs

// Requests that the reader loops do not answer at once: each is served by a goroutine, from its beginning to its end.

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// handOn goes on with a request in a goroutine. It is noted before the loop that read it turns to another.
func (s *Session) handOn(unique uint64, serve func()) {
	session := s.files.store.Session()
	slot := session.NoteHanded(unique &^ resent)
	s.running.Go(func() {
		serve()
		session.EndHanded(slot)
	})
}

// spawn serves a request in a goroutine.
func (s *Session) spawn(d device, req []byte) {
	s.handOn(uniqueOf(req), func() { s.serve(d, req) })
}

func uniqueOf(req []byte) uint64 { return (*fuse.InHeader)(unsafe.Pointer(&req[0])).Unique }

// serve answers a request, whatever it has to wait for.
func (s *Session) serve(d device, req []byte) {
	if fault := s.files.options.Fault; fault != nil {
		fault(req)
	}
	h := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
	switch {
	case h.Opcode == opForget, h.Opcode == opBatchForget, h.Opcode == opInterrupt: // as for a loop
	case h.Opcode == opStatx:
		d.answerStatus(h.Unique, fuse.ENOSYS)
	case isRead(req):
		s.serveRead(d, (*fuse.ReadIn)(unsafe.Pointer(&req[0])))
	case isWrite(req):
		s.serveWrite(d, req)
	case h.Opcode == opRead, h.Opcode == opWrite:
		d.answerStatus(h.Unique, fuse.EIO)
	default:
		s.serveProtocol(d, req)
	}
}

// isRead says whether a request is a READ, all of it.
func isRead(req []byte) bool {
	return len(req) >= readHeader && (*fuse.InHeader)(unsafe.Pointer(&req[0])).Opcode == opRead
}

// isWrite says whether it is a WRITE with as many bytes as it says.
func isWrite(req []byte) bool {
	if len(req) < writeHeader {
		return false
	}
	in := (*fuse.WriteIn)(unsafe.Pointer(&req[0]))
	return in.Opcode == opWrite && len(req) == writeHeader+int(in.Size)
}

// serveProtocol answers a request through the protocol server.
func (s *Session) serveProtocol(d device, req []byte) {
	unique := uniqueOf(req)
	if status, ok := refusePollHack(req); ok {
		d.answerStatus(unique, status)
		return
	}
	out := make([]byte, answerSize(req))
	n, status := s.protocol.HandleRequest([][]byte{req}, [][]byte{out})
	switch {
	case !status.Ok():
		d.answerStatus(unique, status)
	case n > 0:
		d.send(out[:n])
	}
	s.files.store.Answered(unique &^ resent)
}

// readLater answers a READ that has to wait.
func (s *Session) readLater(d device, in fuse.ReadIn) {
	s.handOn(in.Unique, func() { s.serveRead(d, &in) })
}

func (s *Session) serveRead(d device, in *fuse.ReadIn) {
	size := int(min(in.Size, maxIO))
	if size <= copyLimit {
		s.readInto(d, in, make([]byte, outHeader+size))
		return
	}
	b := s.pool.get()
	s.readInto(d, in, b.answer(size))
	s.pool.put(b)
}

// readInto reads, and answers with it; p has room for the answer's header and all that is asked for.
func (s *Session) readInto(d device, in *fuse.ReadIn, p []byte) {
	end := s.relief.begin()
	n, err := s.files.read(in, p[outHeader:])
	end()
	if err != nil {
		d.answerStatus(in.Unique, s.files.result(node(in.NodeId), "read", err))
		return
	}
	d.answer(in.Unique, fuse.OK, p[:outHeader+n])
}

// failLater answers a READ or WRITE that failed: a loop does not wait for the log either.
func (s *Session) failLater(d device, h *fuse.InHeader, op string, err error) {
	n, unique := node(h.NodeId), h.Unique
	s.handOn(unique, func() { d.answerStatus(unique, s.files.result(n, op, err)) })
}

// writeLater answers a WRITE that has to wait; buf is the buffer that req lies in, or nil.
func (s *Session) writeLater(d device, req []byte, buf *buffer) {
	s.handOn(uniqueOf(req), func() {
		s.serveWrite(d, req)
		if buf != nil {
			s.pool.put(buf)
		}
	})
}

func (s *Session) serveWrite(d device, req []byte) {
	in := (*fuse.WriteIn)(unsafe.Pointer(&req[0]))
	end := s.relief.begin()
	err := s.files.write(in, req[writeHeader:], true)
	end()
	if err == nil && through(in) {
		err = s.files.flushWritten(in)
	}
	s.written(d, in, err)
}

// syncLater answers a WRITE that is still to be flushed.
func (s *Session) syncLater(d device, in fuse.WriteIn) {
	s.handOn(in.Unique, func() { s.written(d, &in, s.files.flushWritten(&in)) })
}

// written answers a WRITE.
func (s *Session) written(d device, in *fuse.WriteIn, err error) {
	if err != nil {
		d.answerStatus(in.Unique, s.files.result(node(in.NodeId), "write", err))
		return
	}
	d.answerWrite(new([writeAnswer]byte), in.Unique, in.Size)
}
