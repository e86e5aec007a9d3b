package fs

// Request buffers: mapped and locked, because a process killed while the kernel copies into a page that is not
// there fails that request instead of leaving it to the next process.

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxIO is the most a READ or WRITE carries, in bytes.
	maxIO = 1 << 20

	pageSize = 4096

	// keptBuffers are kept for later when nobody uses them; more are unmapped at once, so that memory is locked
	// for a peak only while it lasts.
	keptBuffers = 16
)

// buffer holds one request or answer. In the mapping a page comes first, then the data of a READ or WRITE, so that
// data is page-aligned: the headers, of whatever length, end where the first page ends.
type buffer struct {
	mem []byte
}

// request is where the kernel's next request goes: a WRITE's header, then data.
func (b *buffer) request() []byte { return b.mem[pageSize-writeHeader:] }

// data is where the data of a READ's answer, or of a WRITE, lie.
func (b *buffer) data() []byte { return b.mem[pageSize:] }

// answer is a READ's answer with n bytes of data; its header is still to be filled in.
func (b *buffer) answer(n int) []byte { return b.mem[pageSize-outHeader : pageSize+n] }

// pool lends buffers. It grows with demand.
type pool struct {
	logf     func(format string, args ...any)
	unlocked sync.Once // a buffer could not be locked

	mu   sync.Mutex // guards free
	free []*buffer
}

func (p *pool) get() *buffer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	return p.mapBuffer()
}

func (p *pool) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < keptBuffers {
		p.free = append(p.free, b)
		return
	}
	unmapBuffer(b)
}

// close gives the idle buffers back; it is called when no request is left.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.free {
		unmapBuffer(b)
	}
	p.free = nil
}

// mapBuffer maps a new buffer. A limit on locked memory is no reason not to serve: the pages are there from the
// start, and go only when the host swaps.
func (p *pool) mapBuffer() *buffer {
	mem, err := unix.Mmap(-1, 0, pageSize+maxIO, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		panic(fmt.Sprintf("no memory for a request buffer: %v", err))
	}
	if err := unix.Mlock(mem); err != nil {
		p.unlocked.Do(func() {
			p.logf("request buffers can't be locked in memory (%v): should the host swap them out, the death of this process can fail a request; raise the limit of locked memory (ulimit -l)", err)
		})
	}
	return &buffer{mem}
}

func unmapBuffer(b *buffer) {
	if err := unix.Munmap(b.mem); err != nil {
		panic(fmt.Sprintf("unmap a request buffer: %v", err))
	}
	b.mem = nil
}
