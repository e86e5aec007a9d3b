package layer

// The journal: what a guest flushes in small pieces is written a second time, with where it belongs, to a file in which
// every block is written already. That is one write in place, where a new block of a data file costs a commit of the file
// system's journal and one of the index. The data file and the index follow in the background, for many flushes at once; a
// start after a crash writes into the data files what they had not got by then.
//
//	write the record                                     crash: it is whole, or not there; nothing was promised
//	write the mark, which is journalmark.go's            crash: the same
//	answer the flush                                     crash: the start writes its blocks to the layer, and goes on
//	sync the data file                                   crash: the same
//	commit the index, which knows up to which record
//	it has the layer's                                   crash: the record is not needed any more
//	write a record that says so                          crash: it is whole, and so are all that it counts as needed; or
//	                                                     the one before it is
//	use its slots again
//
// A record that is needed is the newest of its blocks: once a layer has one, whatever flushes the layer either writes
// another or commits. So what a start writes is never older than what was promised.
//
// After a start, cold or not, nothing is written before all records there are have become needless, and the key is new.

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// errNoRecord says that no record was written, and the journal is as it was: the flush commits instead.
var errNoRecord = errors.New("no record was written")

// errNoRoom is errNoRecord because there is no room, or no journal.
var errNoRoom = fmt.Errorf("%w: no room in the journal", errNoRecord)

// journal is the ring of records, and what of it is still needed.
type journal struct {
	open atomic.Bool        // records can be written
	wake chan struct{}      // somebody has work for keepJournal
	told atomic.Bool        // that it failed
	kept map[uint64]LayerID // the numbers of records that are in journal.kept, and of which layers: keepJournal's own

	mu      sync.Mutex // innermost; guards what follows
	file    *journalFile
	next    uint64                      // the number of the next record
	at      int                         // its slot
	used    int                         // slots from the oldest of dead, or of live, on
	dead    []liveRecord                // not needed any more, but the newest one on disk may say that they are
	live    []liveRecord                // needed; both by number
	layers  map[LayerID]*journaledLayer // that have any of live
	writing []uint64                    // the numbers of those that are being written, rising; and of one that failed
	ended   uint64                      // how many have been written since the key is new
	tail    uint64                      // the highest one of those
	under   sync.WaitGroup              // records that wait or are being written
	waiting []*recordWrite              // for journalgroup.go
	led     bool                        // somebody writes them
	free    [][]byte                    // memory for records
}

type liveRecord struct {
	number uint64
	layer  LayerID
	slots  int // it takes, with what was left out at the ring's end before it
	at     int // its first one
}

type journaledLayer struct {
	records   int    // of live
	committed uint64 // those before this one are not needed any more
	flushing  bool   // in the background
}

func newJournal() *journal {
	return &journal{wake: make(chan struct{}, 1), next: 1, at: journalHeaders, layers: make(map[LayerID]*journaledLayer)}
}

// ask has keepJournal look what there is to do.
func (j *journal) ask() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// position is the number of the next record.
func (j *journal) position() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next
}

// begin takes slots for a record, and numbers it.
func (j *journal) begin(r *journalRecord) (slot int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.open.Load() {
		return 0, errNoRoom
	}
	n, skip, at := 1+len(r.blocks), 0, j.at
	if at+n > j.file.slots {
		skip, at = j.file.slots-at, journalHeaders
	}
	size := j.file.slots - journalHeaders
	if j.used+skip+n > size {
		j.ask()
		return 0, errNoRoom
	}
	r.number = j.next
	j.next++
	j.at, j.used = at+n, j.used+skip+n
	j.live = append(j.live, liveRecord{r.number, r.layer, skip + n, at})
	j.layer(r.layer).records++
	j.writing = append(j.writing, r.number)
	r.tail, r.synced = j.live[0].number, j.writing[0]
	if j.used > size/2 {
		j.ask()
	}
	return at, nil
}

// end follows the writing of records. Those that failed count as being written for ever. Any others free the slots of those
// that they do not count as needed: whatever is torn where they were, it is the newest one that is believed, or a later one.
func (j *journal) end(err error, records ...*journalRecord) journalMark {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.open.Store(false)
		return journalMark{}
	}
	for _, r := range records {
		i := slices.Index(j.writing, r.number)
		j.writing = slices.Delete(j.writing, i, i+1)
		j.ended, j.tail = j.ended+1, max(j.tail, r.tail)
	}
	for len(j.dead) > 0 && j.dead[0].number < j.tail {
		j.used -= j.dead[0].slots
		j.dead = j.dead[1:]
	}
	return j.markLocked()
}

// markLocked is the mark of what is on disk now. Of very many that are being written, it ends before those that it can't name.
func (j *journal) markLocked() journalMark {
	m := journalMark{generation: j.file.generation, count: j.ended, tail: j.tail, next: j.next}
	m.unfinished = copy(m.writing[:], j.writing)
	if m.unfinished < len(j.writing) {
		m.next = j.writing[m.unfinished]
	}
	return m
}

// handOnMark has the disk write the mark, if it has moved.
func (j *journal) handOnMark() {
	j.mu.Lock()
	file := j.file
	j.mu.Unlock()
	if file != nil && j.open.Load() {
		file.mark.handOn()
	}
}

// note has records of an earlier process count as needed.
func (j *journal) note(r journalRecord) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live = append(j.live, liveRecord{number: r.number, layer: r.layer, at: r.at})
	j.layer(r.layer).records++
}

func (j *journal) layer(id LayerID) *journaledLayer {
	l := j.layers[id]
	if l == nil {
		l = &journaledLayer{}
		j.layers[id] = l
	}
	return l
}

// settle says that a layer's records before one are not needed any more.
func (j *journal) settle(id LayerID, before uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.layers[id]
	if l == nil {
		return
	}
	l.committed = max(l.committed, before)
	for len(j.live) > 0 {
		r := j.live[0]
		l := j.layers[r.layer]
		if l.committed <= r.number {
			return
		}
		j.live, j.dead = j.live[1:], append(j.dead, r)
		if l.records--; l.records == 0 {
			delete(j.layers, r.layer)
		}
	}
	if !j.open.Load() {
		j.ask() // that was the last one
	}
}

// forget says that nobody will ask for a layer any more.
func (j *journal) forget(id LayerID) { j.settle(id, 1<<63) }

// oldest lists the layers that keep the older half of a ring that is more than half full, or all of one that is not open,
// and that are not being flushed yet. done comes after the flush of each.
func (j *journal) oldest() (layers []LayerID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	slots := j.used
	if j.open.Load() {
		if slots <= (j.file.slots-journalHeaders)/2 {
			return nil
		}
		slots /= 2
	}
	for _, r := range j.live {
		if l := j.layers[r.layer]; !l.flushing && l.committed <= r.number {
			l.flushing = true
			layers = append(layers, r.layer)
		}
		if slots -= r.slots; slots < 0 {
			break
		}
	}
	return layers
}

func (j *journal) done(id LayerID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if l := j.layers[id]; l != nil {
		l.flushing = false
	}
}

// drained says that no record is needed, and that none can be written: the ring is not open, or so full of those that are
// dead that nothing can tell so. That one is closed.
func (j *journal) drained() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.live) > 0 {
		return false
	}
	if j.open.Load() && j.used+2*(1+journalBlocks) > j.file.slots-journalHeaders {
		j.open.Store(false)
	}
	return !j.open.Load()
}

// start lets records be written, to a file in which none is needed.
func (j *journal) start(f *journalFile) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.file, j.at, j.used, j.dead, j.writing = f, journalHeaders, 0, nil, nil
	j.ended, j.tail = 0, f.first
	j.told.Store(false)
	j.open.Store(true)
}

// close ends the use of the file. Whoever comes later gets errNoRoom.
func (j *journal) close() {
	j.mu.Lock()
	j.open.Store(false)
	j.mu.Unlock()
	j.under.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.file.close()
	}
	for _, p := range j.free {
		_ = unix.Munmap(p)
	}
	j.file, j.free = nil, nil
}

// memory is for one record of any size.
func (j *journal) memory() ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.free); n > 0 {
		p := j.free[n-1]
		j.free = j.free[:n-1]
		return p, nil
	}
	return alignedMemory(1 + journalBlocks)
}

func (j *journal) putMemory(p []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.free) < groupSize {
		j.free = append(j.free, p)
		return
	}
	_ = unix.Munmap(p)
}
