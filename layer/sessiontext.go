package layer

// Texts that are being read. What an open control file says is of the moment it was opened; whoever takes it in pieces is
// to get the rest of it from the next worker as well, and not of another one. Kept are those only: few, and seldom.

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	maxTexts  = 64
	textBytes = 4 << 20 // of addresses for each
)

// textSlot says whose text one is. The handle is written last.
type textSlot struct {
	handle atomic.Uint64 // 0: free
	size   uint64        // bytes
	_      [48]byte
}

// KeepText keeps what a handle reads, in the place of what it read before. One text too many, or one too long, is not
// kept: what is left of it is of the moment when the next worker is asked for it.
func (s *Session) KeepText(h Handle, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.textLocked(h)
	if i < 0 {
		i = s.textLocked(0)
	}
	if i < 0 || len(text) > textBytes {
		return
	}
	slot := &s.texts[i]
	slot.handle.Store(0)
	slot.size = uint64(copy(s.mem[textOffset(i):], text))
	slot.handle.Store(uint64(h))
}

// Text is what is kept for a handle.
func (s *Session) Text(h Handle) (text []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.textLocked(h)
	if i < 0 {
		return nil, false
	}
	at := textOffset(i)
	return append([]byte(nil), s.mem[at:at+int(s.texts[i].size)]...), true
}

// DropText forgets what is kept for a handle, if anything is.
func (s *Session) DropText(h Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.textLocked(h); i >= 0 {
		s.texts[i].handle.Store(0)
		_ = unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(textOffset(i)), textBytes)
	}
}

// textLocked finds the slot of a handle, or for 0 a free one; -1 if there is none.
func (s *Session) textLocked(h Handle) int {
	for i := range s.texts {
		if s.texts[i].handle.Load() == uint64(h) {
			return i
		}
	}
	return -1
}

func textOffset(i int) int { return offTextBytes + i*textBytes }
