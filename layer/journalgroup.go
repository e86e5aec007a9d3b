package layer

// Writing records: those that wait when a write to the disk has ended go with the next one, all together, whatever layers
// they are of. So many guests that flush at the same time wait for one and the same turn of the disk.
//
//	number those that wait, and place them in the ring, one behind the other
//	write them, at once                                  crash: any of them are whole, or not there; nothing was promised
//	write the mark, once for all of them                 crash: the same
//	answer each
//
// One such write is under way at a time. With two, each is of half as many records, and takes longer: fewer flushes a second. Who
// finds none writes, as waking somebody takes as long as half a write; a goroutine goes on as long as others wait.

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What is written together, at most.
const (
	groupSize  = markWriting // records
	groupSlots = 256         // 1 MiB: none waits long for what others flush
)

// errLater says that somebody will be told how it ended.
var errLater = errors.New("it goes on by itself")

// recordWrite is a record on its way to the disk.
type recordWrite struct {
	journalRecord
	mem  []byte // that it lies at the beginning of
	err  error
	done func(error)
}

// bytes are those of the record, of whole slots.
func (w *recordWrite) bytes() []byte { return w.mem[:(1+len(w.blocks))*blockSize] }

// submit has blocks of a layer on disk by the time that done is called, in whichever goroutine; done must not wait for anything. fill
// copies their data. It returns before that, or after one group has been written, its own. errNoRecord, returned or given to
// done: nothing was done. After any other error that done gets, nothing is written any more: nobody knows what is there.
func (j *journal) submit(l LayerID, blocks []uint64, fill func(data []byte) error, done func(error)) error {
	mem, err := j.memory()
	if err != nil {
		return fmt.Errorf("%w: %w", errNoRecord, err)
	}
	w := &recordWrite{journalRecord: journalRecord{layer: l, blocks: blocks}, mem: mem, done: done}
	if err := fill(w.bytes()[blockSize:]); err != nil {
		j.putMemory(mem)
		return fmt.Errorf("%w: %w", errNoRecord, err)
	}
	leads, err := j.queue(w)
	if err != nil {
		j.putMemory(mem)
		return err
	}
	if leads {
		j.writeGroup(j.group())
		if j.goesOn() {
			go j.lead()
		}
	}
	return nil
}

// lead writes as long as any wait.
func (j *journal) lead() {
	for more := true; more; more = j.goesOn() {
		j.writeGroup(j.group())
	}
}

// queue has a record wait, and says whether the caller is to write it.
func (j *journal) queue(w *recordWrite) (leads bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.open.Load() {
		return false, errNoRoom
	}
	j.under.Add(1)
	j.waiting = append(j.waiting, w)
	leads, j.led = !j.led, true
	return leads, nil
}

// goesOn says whether any wait. If not, whoever is next leads.
func (j *journal) goesOn() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.led = len(j.waiting) > 0
	return j.led
}

// group takes those that wait.
func (j *journal) group() []*recordWrite {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, slots := 0, 0
	for n < min(len(j.waiting), groupSize) && slots < groupSlots {
		slots += 1 + len(j.waiting[n].blocks)
		n++
	}
	group := j.waiting[:n:n]
	if j.waiting = j.waiting[n:]; len(j.waiting) == 0 {
		j.waiting = nil
	}
	return group
}

// writeGroup has the disk write what there is room for, and tells all.
func (j *journal) writeGroup(group []*recordWrite) {
	var records []*journalRecord
	var runs []slotRun
	for _, w := range group {
		if w.at, w.err = j.begin(&w.journalRecord); w.err != nil {
			continue
		}
		j.file.seal(w.bytes(), &w.journalRecord)
		records = append(records, &w.journalRecord)
		runs = addRun(runs, w)
	}
	var err error
	for i := 0; i < len(runs) && err == nil; i++ {
		err = j.file.writeAll(runs[i].parts, runs[i].slot)
	}
	if len(records) > 0 {
		m := j.end(err, records...)
		if err == nil {
			err = j.file.mark.write(&m)
		}
		if err != nil {
			j.open.Store(false)
		}
	}
	for _, w := range group {
		if w.err == nil {
			w.err = err
		}
		j.putMemory(w.mem)
		w.done(w.err)
		j.under.Done()
	}
}

// slotRun is what is to be written from a slot on.
type slotRun struct {
	slot, slots int
	parts       [][]byte
}

// addRun adds a record to the last run, or where the ring begins anew, to one of its own.
func addRun(runs []slotRun, w *recordWrite) []slotRun {
	n := len(runs)
	if n == 0 || runs[n-1].slot+runs[n-1].slots != w.at {
		runs, n = append(runs, slotRun{slot: w.at}), n+1
	}
	r := &runs[n-1]
	r.parts, r.slots = append(r.parts, w.bytes()), r.slots+1+len(w.blocks)
	return runs
}

// writeAll returns when all parts, each of whole slots and in aligned memory, are on disk, one behind the other.
func (j *journalFile) writeAll(parts [][]byte, slot int) error {
	if len(parts) == 1 {
		return j.write(parts[0], slot)
	}
	err, size := errors.Join(faulty("sync"), faulty("write")), 0
	if err != nil {
		return err
	}
	for _, p := range parts {
		size += len(p)
	}
	n, err := unix.Pwritev(j.fd, parts, int64(slot)*blockSize)
	if n == size || err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	for _, p := range parts { // it was interrupted
		if err := j.write(p, slot); err != nil {
			return err
		}
		slot += len(p) / blockSize
	}
	return nil
}
