package layer

// Operations that must not be done twice: what a worker did and died before it had answered is sent again to the next
// one, which must say that it is done. So the transaction that decides an operation also records the request, and what
// came of it.
//
//	commit the operation, with the record    crash: the next worker answers from the record
//	answer                                   crash: nobody asks again
//	drop the record, with many others        the rest goes at a cold start, or a while after a take-over

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// Request is what somebody asked for once. ID names it in the session; 0: nothing of it is recorded. Handle is not 0 if
// the answer can be asked for again until that is closed. Text is what was asked for, for who makes the answer anew.
type Request struct {
	ID     uint64 `json:"id"`
	Handle uint64 `json:"handle,omitempty"`
	Text   []byte `json:"text,omitempty"`
}

// Outcome is what a request came to that a worker before this one did. Snapshots: the one that was made, renamed or
// gone to, or those that were deleted: if that is a long list, the first of them, without their files.
type Outcome struct {
	Text      []byte // the request's
	Snapshots []SnapshotInfo
	Kept      string // as in RevertResult
	Reset     bool   // likewise
	VM        string // that was made as a clone
}

// doneRecord is an Outcome in the index. A snapshot that stays is told as it is when it is asked for.
type doneRecord struct {
	Session  uint64         `json:"session"`
	Handle   uint64         `json:"handle,omitempty"`
	Text     []byte         `json:"text,omitempty"`
	Snapshot SnapshotID     `json:"snapshot,omitempty"`
	Name     string         `json:"name,omitempty"` // of Snapshot, should it be gone by then
	Deleted  []SnapshotInfo `json:"deleted,omitempty"`
	Kept     string         `json:"kept,omitempty"`
	Reset    bool           `json:"reset,omitempty"`
	VM       string         `json:"vm,omitempty"`
}

const (
	// maxDeleted is how long the list of deleted snapshots may be in a record, in bytes, with their files.
	maxDeleted = 64 << 10
	// maxShort is how many there are in a list without files.
	maxShort = 1000
	// forgetAfter is when a worker that took over drops the records that it found: all that was sent again has come.
	forgetAfter = time.Minute
)

// requests are those that have a record.
type requests struct {
	since time.Time // when the store was opened

	mu    sync.Mutex
	open  map[uint64]uint64     // by id: the handle, of those that can still be asked about
	over  []uint64              // ids of the others, whose records are to be dropped
	found map[uint64]doneRecord // by id: what workers before this one left
	stale bool                  // found is to be dropped from the index
}

// loadRequests takes over what workers before this one did, a snapshot that was just completed for one of them included;
// what is of another session goes.
func (s *Store) loadRequests() error {
	q := &s.requests
	q.since, q.open, q.found = time.Now(), make(map[uint64]uint64), make(map[uint64]doneRecord)
	err := s.index.View(func(tx *blockmap.Tx) error {
		return scan(tx, tableDone, func(id uint64, r doneRecord) error {
			if !s.resumes || r.Session != s.session.header.id {
				q.over = append(q.over, id)
				return nil
			}
			q.open[id], q.found[id], q.stale = r.Handle, r, true
			return nil
		})
	})
	if err != nil {
		return indexError(err, "read which requests are done")
	}
	return nil
}

// putDone records, with an operation, what its request comes to.
func (s *Store) putDone(tx *blockmap.Tx, by []Request, r doneRecord) {
	for _, request := range by {
		if request.ID == 0 {
			continue
		}
		r.Session, r.Handle, r.Text = s.session.header.id, request.Handle, request.Text
		put(tx, catalogKey(tableDone, request.ID), r)
		s.requests.mu.Lock()
		if s.requests.open != nil { // not while the store is opened
			s.requests.open[request.ID] = request.Handle
		}
		s.requests.mu.Unlock()
	}
}

// withDone is an update that puts the record, too.
func (s *Store) withDone(by []Request, r doneRecord, fn func(*blockmap.Tx) error) func(*blockmap.Tx) error {
	return func(tx *blockmap.Tx) error {
		s.putDone(tx, by, r)
		return fn(tx)
	}
}

// Done says what a request came to, if a worker before this one did it.
func (s *Store) Done(id uint64) (Outcome, bool) {
	q := &s.requests
	q.mu.Lock()
	r, ok := q.found[id]
	q.mu.Unlock()
	return s.outcome(r), ok
}

// DoneThrough says what the last request came to that a worker before this one did through a handle.
func (s *Store) DoneThrough(handle uint64) (Outcome, bool) {
	q := &s.requests
	q.mu.Lock()
	var last uint64
	for id, r := range q.found {
		if r.Handle == handle {
			last = max(last, id)
		}
	}
	r, ok := q.found[last]
	q.mu.Unlock()
	return s.outcome(r), ok
}

func (s *Store) outcome(r doneRecord) Outcome {
	o := Outcome{Text: r.Text, Snapshots: r.Deleted, Kept: r.Kept, Reset: r.Reset, VM: r.VM}
	if r.Snapshot != 0 {
		info := SnapshotInfo{Name: r.Name}
		if n := s.snapshots.Load(r.Snapshot); n != nil {
			info = n.Info()
		}
		o.Snapshots = []SnapshotInfo{info}
	}
	return o
}

// Answered says that a request has its answer: nobody sends it again. One with a handle is kept until Released.
func (s *Store) Answered(id uint64) {
	q := &s.requests
	q.mu.Lock()
	defer q.mu.Unlock()
	if handle, ok := q.open[id]; ok && handle == 0 {
		q.endLocked(id)
	}
}

// Released says that nobody asks through a handle any more for what its requests came to.
func (s *Store) Released(handle uint64) {
	q := &s.requests
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, h := range q.open {
		if h == handle {
			q.endLocked(id)
		}
	}
}

func (q *requests) endLocked(id uint64) {
	delete(q.open, id)
	delete(q.found, id)
	q.over = append(q.over, id)
}

// forgetRequests drops, in one transaction, the records that nobody needs.
func (s *Store) forgetRequests() error {
	q := &s.requests
	q.mu.Lock()
	over := q.over
	q.over = nil
	if q.stale && time.Since(q.since) > forgetAfter {
		for id := range q.found {
			over = append(over, id)
		}
		q.stale = false
	}
	q.mu.Unlock()
	if len(over) == 0 {
		return nil
	}
	err := s.updateFreeing(func(tx *blockmap.Tx) error {
		for _, id := range over {
			tx.Delete(catalogKey(tableDone, id))
		}
		return nil
	})
	if err != nil {
		q.mu.Lock()
		q.over = append(q.over, over...)
		q.mu.Unlock()
		return fmt.Errorf("drop the records of %d requests: %w", len(over), err)
	}
	return nil
}

// doneDeleted is the record of snapshots that are deleted.
func doneDeleted(infos []SnapshotInfo) doneRecord {
	if text, err := json.Marshal(infos); err == nil && len(text) <= maxDeleted {
		return doneRecord{Deleted: infos}
	}
	r := doneRecord{}
	for _, info := range infos[:min(len(infos), maxShort)] {
		r.Deleted = append(r.Deleted, SnapshotInfo{
			Name: info.Name, Created: info.Created, State: info.State, Consistency: info.Consistency,
			Excluded: []string{}, Files: []FileInfo{},
		})
	}
	return r
}
