package layer

// The session log: what has changed of a VM's files since the index was last told, in the session's memory. What a
// guest wrote and did not flush is in the host's page cache; which layer it is in only this log knows, should the
// process die.
//
// A change is made to the bitmaps that wait for a flush, then logged, then shown: whoever acts on it acts on what the
// next worker will know. A record is dropped when a flush has committed what it says.

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	recordBytes = 16
	// flushRecords is how many records a VM gathers before it is flushed, whether or not its guest asks for it.
	flushRecords = 32 << 10
	// spareRecords is what those need that do not ask for room: a growth, a swap.
	spareRecords = 4 << 10
)

// logKind is what a record says of its layer.
type logKind uint64

const (
	logData logKind = 1 + iota // it holds these blocks
	logZero                    // they read as zeros
	logSize                    // its file has this size
	logSwap                    // it is the first of the prepared heads, which are in use since this time
)

// logRecord is a record read back. In memory it is two words: the layer; and, from the low bits, 44 of a value (first
// block and 12 of how many, or a size in bytes, or ms since 1970) and the kind.
type logRecord struct {
	layer LayerID
	kind  logKind
	value uint64
}

const valueBits = 44

func blocksValue(first, count uint64) uint64     { return first<<12 | count }
func (r logRecord) blocks() (first, last uint64) { return r.value >> 12, r.value>>12 + r.value&0xfff }

// ringSlot says where a VM's records are. A record's number counts from 1 and never repeats. One counts from when next
// is past it, which is set after the record is written.
type ringSlot struct {
	vm   atomic.Uint64 // 0: free
	next atomic.Uint64 // number of the next record
	tail atomic.Uint64 // number of the oldest that counts
	_    [40]byte
}

type recordSlot [2]atomic.Uint64

// ring is a VM's log.
type ring struct {
	session *Session
	slot    *ringSlot
	index   int
	records *[ringRecords]recordSlot
	limit   uint64 // of records that are asked for
	ask     func() // for a flush of the VM

	replaying uint64 // the record that is being replayed: nothing is written, and what is done is held by it

	charged atomic.Uint64 // records that are on their way

	mu      sync.Mutex // guards what follows, and the order of records
	holders map[*hold]struct{}
	punched uint64 // records below are given back to the system
	asked   bool   // for a flush, since the tail last moved
}

// hold keeps records that somebody has yet to commit: from the one numbered current on, and while a flush is under
// way those from committing on. 0: none.
type hold struct{ current, committing uint64 }

func (h *hold) first() uint64 {
	if h.committing != 0 {
		return h.committing
	}
	return h.current
}

// ring finds or makes a VM's log.
func (s *Session) ring(vm VMID) (*ring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.ringAt[vm]
	if !ok {
		if len(s.freeRings) == 0 {
			return nil, Errorf(unix.ENOSPC, "a mount serves at most %d VMs", maxRings)
		}
		i = s.freeRings[len(s.freeRings)-1]
		s.freeRings = s.freeRings[:len(s.freeRings)-1]
		s.ringAt[vm] = i
		slot := &s.rings[i]
		if slot.next.Load() == 0 {
			slot.next.Store(1)
		}
		slot.tail.Store(slot.next.Load()) // numbers go on where the slot's last VM stopped
		slot.vm.Store(uint64(vm))
	}
	return &ring{
		session: s, slot: &s.rings[i], index: i, holders: make(map[*hold]struct{}),
		limit:   ringRecords - spareRecords,
		records: (*[ringRecords]recordSlot)(unsafe.Pointer(&s.mem[offRecords+i*ringBytes])),
		punched: s.rings[i].tail.Load() &^ (punchRecords - 1),
	}, nil
}

// dropRing forgets a VM's log.
func (s *Session) dropRing(vm VMID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.ringAt[vm]; ok {
		delete(s.ringAt, vm)
		s.rings[i].vm.Store(0)
		s.freeRings = append(s.freeRings, i)
	}
}

// logged lists the VMs that have a log.
func (s *Session) logged() []VMID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var vms []VMID
	for vm := range s.ringAt {
		vms = append(vms, vm)
	}
	return vms
}

// charge asks for room for up to n records, and says whether there is any.
func (r *ring) charge(n uint64) bool {
	if r.used()+r.charged.Add(n) <= r.limit {
		return true
	}
	r.discharge(n)
	return false
}

// discharge takes a charge back, after the records.
func (r *ring) discharge(n uint64) { r.charged.Add(-n) }

func (r *ring) used() uint64 {
	tail := r.slot.tail.Load() // first: it never passes a later next
	return r.slot.next.Load() - tail
}

// append writes a record, which h keeps.
func (r *ring) append(h *hold, l LayerID, kind logKind, value uint64) {
	if n := r.replaying; n != 0 {
		r.keep(h, n)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.slot.next.Load()
	if n-r.slot.tail.Load() >= ringRecords {
		panic("layer: the session log is overrun")
	}
	r.keepLocked(h, n)
	record := &r.records[n%ringRecords]
	record[0].Store(uint64(l))
	record[1].Store(value | uint64(kind)<<valueBits)
	r.slot.next.Store(n + 1)
	if r.used() > flushRecords && !r.asked {
		r.asked = true
		r.ask()
	}
}

func (r *ring) keep(h *hold, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keepLocked(h, n)
}

func (r *ring) keepLocked(h *hold, n uint64) {
	if h.current == 0 {
		h.current = n
		r.holders[h] = struct{}{}
	}
}

// begin notes that what h keeps is being committed, and returns the position: records before it are in what is copied
// after this call.
func (r *ring) begin(h *hold) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.committing, h.current = h.first(), 0
	return r.slot.next.Load()
}

// end notes that it is, or is not.
func (r *ring) end(h *hold, committed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !committed {
		h.current = h.first()
	}
	h.committing = 0
	r.dropLocked(h)
}

// release lets go of all that h keeps.
func (r *ring) release(h *hold) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*h = hold{}
	r.dropLocked(h)
}

// dropLocked moves the tail up to the oldest record that anybody keeps.
func (r *ring) dropLocked(h *hold) {
	if h.first() == 0 {
		delete(r.holders, h)
	}
	tail := r.slot.next.Load()
	for h := range r.holders {
		tail = min(tail, h.first())
	}
	if tail == r.slot.tail.Load() {
		return
	}
	r.slot.tail.Store(tail)
	r.asked = false
	r.punch(tail)
}

// punch gives memory back, a good deal at a time, so that a VM's log takes what it holds and not what it ever held.
func (r *ring) punch(tail uint64) {
	for tail-r.punched >= punchRecords {
		from := r.punched % ringRecords
		n := min((tail-r.punched)&^(punchRecords-1), ringRecords-from)
		offset := int64(offRecords + r.index*ringBytes + int(from)*recordBytes)
		_ = unix.Fallocate(r.session.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, int64(n)*recordBytes)
		r.punched += n
	}
}

// punchRecords is how many records' memory is given back at once; a multiple of a page's.
const punchRecords = 4 << 10

// holds says whether h keeps any record.
func (r *ring) holds(h *hold) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return h.first() != 0
}

// position is the number of the next record.
func (r *ring) position() uint64 { return r.slot.next.Load() }

// each calls fn for every record that counts, oldest first, until it returns an error.
func (r *ring) each(fn func(n uint64, rec logRecord) error) error {
	for n, next := r.slot.tail.Load(), r.slot.next.Load(); n < next; n++ {
		record := &r.records[n%ringRecords]
		word := record[1].Load()
		rec := logRecord{layer: LayerID(record[0].Load()), kind: logKind(word >> valueBits), value: word & (1<<valueBits - 1)}
		if err := fn(n, rec); err != nil {
			return err
		}
	}
	return nil
}
