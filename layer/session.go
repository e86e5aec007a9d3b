package layer

// The session: what outlives the process that serves a store, and dies with the mount. It is shared memory, which a
// supervisor keeps while one worker follows another:
//
//	header        version, whether a worker served, the kernel's INIT request
//	running       which requests the worker is at: see running.go
//	suspects      which of them it may die of: see suspects.go
//	open table    who has which file open
//	failed heads  no flush of which may succeed any more
//	texts         what is being read of control files: see sessiontext.go
//	rings         for each VM, a log of what the index does not know yet: see sessionlog.go
//
// It never reaches a disk. But it is for as long as the mount is, whatever versions of the program serve that: it keeps the
// layout in which it was made, which is that of the store's version then. Versions 1 and 2 have the same.

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sessionMagic   = 0x736e617066730001 // "snapfs", and added to it the version of the format
	sessionHeader  = 64 << 10
	maxInit        = 4 << 10
	maxOpens       = 1 << 16
	maxOpensOfVM   = maxOpens / 4
	maxFailed      = 1 << 13
	maxRings       = 1 << 14 // VMs of a store
	ringRecords    = 1 << 20
	ringBytes      = ringRecords * recordBytes
	offOpens       = sessionHeader
	offFailed      = offOpens + maxOpens*int(unsafe.Sizeof(openSlot{}))
	offTexts       = offFailed + maxFailed*8
	offRings       = offTexts + maxTexts*int(unsafe.Sizeof(textSlot{}))
	offTextBytes   = (offRings + maxRings*int(unsafe.Sizeof(ringSlot{})) + 4095) &^ 4095
	offRecords     = offTextBytes + maxTexts*textBytes
	sessionSize    = offRecords + maxRings*ringBytes // of addresses; memory is taken as it is touched
	sessionMapping = unix.PROT_READ | unix.PROT_WRITE
)

// Session is the memory of one mount. Only one store may use it at a time. It is given back when nobody refers to it.
type Session struct {
	fd     int
	mem    []byte
	header *sessionHead
	opens  *[maxOpens]openSlot
	failed *[maxFailed]atomic.Uint64
	texts  *[maxTexts]textSlot // guarded by mu
	rings  *[maxRings]ringSlot

	running   *runningTable
	suspects  *[maxSuspects]suspect
	freeSlots freeSlots

	mu        sync.Mutex // guards what follows
	openAt    map[Handle]openEntry
	opensOf   map[VMID]int
	freeOpens []int
	ringAt    map[VMID]int
	freeRings []int
}

type sessionHead struct {
	magic  atomic.Uint64
	id     uint64
	served atomic.Uint64 // a worker has served: the next one goes on from here
	// Answered is odd once the present worker has given an answer; it never goes back.
	answered  atomic.Uint64
	allFailed atomic.Uint64 // more heads failed than there are slots for
	initSize  atomic.Uint64
	init      [maxInit]byte
	restored  int64 // when the store's index was last made of a backup, as the first worker found it
}

// openSlot is an entry of the open table. The handle is written last.
type openSlot struct {
	handle atomic.Uint64 // 0: free
	id     uint64        // of a file, of a snapshot's file, or of a snapshot whose memory it is; or a TextRead
	flags  uint64
}

// openEntry says where a handle is in the open table, and which VM it counts for: 0 if an earlier worker opened it and it
// is not known yet.
type openEntry struct {
	slot int
	vm   VMID
}

const (
	openWrites = 1 << iota
	openView
	openMemory
	openText
	openUID = 32 // the bit from which on openText has who opened it
)

// NewSession makes an empty one of the newest version.
func NewSession() (*Session, error) { return newSession(newestFormat) }

// NewSessionFor makes an empty one of the version that a store has. Where nobody knows that, whoever opens it says why.
func NewSessionFor(dir string) (*Session, error) {
	version, err := FormatOf(dir)
	if err != nil {
		version = newestFormat
	}
	return newSession(version)
}

func newSession(version int) (*Session, error) {
	fd, err := unix.MemfdCreate("snapfs-session", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the session's memory: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(sessionSize)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the session's memory: %w", err)
	}
	s, err := mapSession(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	s.header.id = rand.Uint64() | 1
	s.header.magic.Store(sessionMagic + uint64(version))
	return s, nil
}

// AdoptSession takes over one whose descriptor another process made; from then on the descriptor is the session's. EINVAL
// for one that is of a newer version.
func AdoptSession(fd int) (*Session, error) {
	if err := checkSession(fd); err != nil {
		return nil, err
	}
	return mapSession(fd)
}

// checkSession refuses what is no session, or one of a version that this program does not know.
func checkSession(fd int) error {
	var magic [8]byte
	if n, err := unix.Pread(fd, magic[:], 0); err != nil || n != len(magic) {
		return fmt.Errorf("descriptor %d holds no session (%d bytes, %v)", fd, n, err)
	}
	version := binary.NativeEndian.Uint64(magic[:]) - sessionMagic
	if version == 0 || version > 1<<15 {
		return fmt.Errorf("descriptor %d holds no session", fd)
	}
	if err := refuseNewer("the session of the mount", int(version)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != int64(sessionSize) {
		return fmt.Errorf("descriptor %d holds a session of %d bytes, which none has (%v)", fd, st.Size, err)
	}
	return nil
}

func mapSession(fd int) (*Session, error) {
	mem, err := unix.Mmap(fd, 0, sessionSize, sessionMapping, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map the session's memory: %w", err)
	}
	s := &Session{
		fd: fd, mem: mem, header: (*sessionHead)(unsafe.Pointer(&mem[0])),
		opens:    (*[maxOpens]openSlot)(unsafe.Pointer(&mem[offOpens])),
		failed:   (*[maxFailed]atomic.Uint64)(unsafe.Pointer(&mem[offFailed])),
		texts:    (*[maxTexts]textSlot)(unsafe.Pointer(&mem[offTexts])),
		rings:    (*[maxRings]ringSlot)(unsafe.Pointer(&mem[offRings])),
		running:  (*runningTable)(unsafe.Pointer(&mem[offRunning])),
		suspects: (*[maxSuspects]suspect)(unsafe.Pointer(&mem[offSuspects])),
		openAt:   make(map[Handle]openEntry), opensOf: make(map[VMID]int), ringAt: make(map[VMID]int),
	}
	s.index()
	s.freeSlots.fill()
	// Not by a Close: requests that come too late must find it.
	runtime.AddCleanup(s, func(mem []byte) {
		_ = unix.Munmap(mem)
		_ = unix.Close(fd)
	}, mem)
	return s, nil
}

// index notes which slots are taken.
func (s *Session) index() {
	for i := range s.opens {
		if h := s.opens[i].handle.Load(); h != 0 {
			s.openAt[Handle(h)] = openEntry{slot: i}
		}
	}
	for i := range s.rings {
		if id := s.rings[i].vm.Load(); id != 0 {
			s.ringAt[VMID(id)] = i
		}
	}
	for i := maxOpens - 1; i >= 0; i-- {
		if s.opens[i].handle.Load() == 0 {
			s.freeOpens = append(s.freeOpens, i)
		}
	}
	for i := maxRings - 1; i >= 0; i-- {
		if s.rings[i].vm.Load() == 0 {
			s.freeRings = append(s.freeRings, i)
		}
	}
}

// FD is the descriptor to hand to the next worker.
func (s *Session) FD() int { return s.fd }

// Served says whether a worker served before: what it left is to be gone on with.
func (s *Session) Served() bool { return s.header.served.Load() != 0 }

func (s *Session) serve() { s.header.served.Store(1) }

// Answered says whether the present worker has answered anything.
func (s *Session) Answered() bool { return s.header.answered.Load()%2 == 1 }

// Answers is how many workers have.
func (s *Session) Answers() uint64 { return (s.header.answered.Load() + 1) / 2 }

// SetAnswered notes that it has; it costs next to nothing when repeated.
func (s *Session) SetAnswered() {
	if n := s.header.answered.Load(); n%2 == 0 {
		s.header.answered.CompareAndSwap(n, n+1)
	}
}

// Renew comes before the next worker: it has answered nothing, and nothing runs.
func (s *Session) Renew() {
	if n := s.header.answered.Load(); n%2 == 1 {
		s.header.answered.Store(n + 1)
	}
	s.resetRunning()
}

// Init is the kernel's first request of the session, nil before it came.
func (s *Session) Init() []byte {
	return append([]byte(nil), s.header.init[:s.header.initSize.Load()]...)
}

// SetInit keeps the kernel's first request for workers to come.
func (s *Session) SetInit(request []byte) error {
	if len(request) > maxInit {
		return fmt.Errorf("an INIT request of %d bytes", len(request))
	}
	copy(s.header.init[:], request)
	s.header.initSize.Store(uint64(len(request)))
	return nil
}

// opened enters a handle of a VM's, or of the mount's with 0, in the open table; ENFILE when that is full, or the VM has
// more than its part of it. Entering it again changes nothing.
func (s *Session) opened(h Handle, vm VMID, id, flags uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.openAt[h]; ok {
		s.countLocked(h, e, vm)
		return nil
	}
	switch {
	case len(s.freeOpens) == 0:
		return Errorf(syscall.ENFILE, "%d files of the mount are open already", maxOpens)
	case vm != 0 && s.opensOf[vm] >= maxOpensOfVM:
		return Errorf(syscall.ENFILE, "%d files of the VM are open already", maxOpensOfVM)
	}
	i := s.freeOpens[len(s.freeOpens)-1]
	s.freeOpens = s.freeOpens[:len(s.freeOpens)-1]
	s.countLocked(h, openEntry{slot: i}, vm)
	slot := &s.opens[i]
	slot.id, slot.flags = id, flags
	slot.handle.Store(uint64(h))
	return nil
}

// countLocked notes whose a handle is, once that is known.
func (s *Session) countLocked(h Handle, e openEntry, vm VMID) {
	if e.vm == 0 && vm != 0 {
		e.vm = vm
		s.opensOf[vm]++
	}
	s.openAt[h] = e
}

// closed takes a handle out.
func (s *Session) closed(h Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.openAt[h]
	if !ok {
		return
	}
	delete(s.openAt, h)
	if e.vm != 0 {
		if s.opensOf[e.vm]--; s.opensOf[e.vm] == 0 {
			delete(s.opensOf, e.vm)
		}
	}
	s.opens[e.slot].handle.Store(0)
	s.freeOpens = append(s.freeOpens, e.slot)
}

// eachOpen calls fn for every handle that is open.
func (s *Session) eachOpen(fn func(h Handle, id, flags uint64)) {
	for i := range s.opens {
		if h := s.opens[i].handle.Load(); h != 0 {
			fn(Handle(h), s.opens[i].id, s.opens[i].flags)
		}
	}
}

// markFailed notes that no flush of a layer may succeed any more.
func (s *Session) markFailed(l LayerID) {
	for i := range s.failed {
		if s.failed[i].Load() == uint64(l) || s.failed[i].CompareAndSwap(0, uint64(l)) {
			return
		}
	}
	s.header.allFailed.Store(1)
}

func (s *Session) hasFailed(l LayerID) bool {
	if s.header.allFailed.Load() != 0 {
		return true
	}
	for i := range s.failed {
		switch s.failed[i].Load() {
		case uint64(l):
			return true
		case 0:
			return false
		}
	}
	return false
}
