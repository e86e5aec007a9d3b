package layer

// Open files of the file system's own, which say something and have no offsets: the session knows who opened one, and
// how far it was read, so that whoever reads it goes on where he was when another worker takes over.

import "sync/atomic"

// TextRead is the last read of such a file: the request, where it began and ended in bytes, and whether that was the
// end of the text.
type TextRead struct {
	Request    uint64
	Start, End int
	Last       bool
}

// A slot has it as one word, so that no moment of a worker's death leaves half of it: from the low bits, whether it was
// the last, 15 of half the request's number, which is even, 21 of the length, and 27 of the end. More than 128 MiB are
// not kept track of.
const (
	readRequest    = 1
	readRequestMax = 1<<15 - 1
	readLength     = 16
	readLengthMax  = 1<<21 - 1
	readEnd        = 37
	readEndMax     = 1<<27 - 1
)

func (r TextRead) word() uint64 {
	word := r.Request / 2 & readRequestMax << readRequest
	word |= uint64(min(r.End-r.Start, readLengthMax)) << readLength
	word |= uint64(min(r.End, readEndMax)) << readEnd
	if r.Last {
		word |= 1
	}
	return word
}

// OpenText enters a handle of a VM's, or of the mount's with 0, and who opened it; ENFILE as for other files.
func (s *Session) OpenText(h Handle, vm VMID, uid uint32) error {
	return s.opened(h, vm, 0, openText|uint64(uid)<<openUID)
}

// CloseText takes a handle out, and its text.
func (s *Session) CloseText(h Handle) {
	s.DropText(h)
	s.closed(h)
}

// TextOpener says who opened a handle, if it is in the table.
func (s *Session) TextOpener(h Handle) (uid uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.openAt[h]
	if !ok {
		return 0, false
	}
	return uint32(s.opens[e.slot].flags >> openUID), true
}

// SetTextRead notes a read, before it is answered; the zero one begins anew.
func (s *Session) SetTextRead(h Handle, r TextRead) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.openAt[h]; ok {
		atomic.StoreUint64(&s.opens[e.slot].id, r.word())
	}
}

// TextPosition is where a read begins that comes to another worker, and whether there is nothing left to read. One that
// was noted, and is sent again, begins where it did.
func (s *Session) TextPosition(h Handle, request uint64, again bool) (position int, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.openAt[h]
	if !ok {
		return 0, false
	}
	word := atomic.LoadUint64(&s.opens[e.slot].id)
	end := int(word >> readEnd)
	if again && word>>readRequest&readRequestMax == request/2&readRequestMax {
		return end - int(word>>readLength&readLengthMax), false
	}
	return end, word&1 != 0
}
