package blockmap

// This file reads from the index. Every commit is a version, and a View reads the newest that was on disk when it began. The
// versions are ours and not Badger's own: with those a View would wait for the commit under way and its sync, and would show
// what a failed commit had written.

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// View calls fn with a read-only transaction: one consistent view of everything whose Update has returned, and of nothing
// that is not on disk. Views run in parallel and wait for no Update. The Tx must not be used after fn has returned.
func (x *Index) View(fn func(*Tx) error) error {
	if err := x.host.ask("view", x.room.dir); err != nil {
		return fmt.Errorf("read the index: %w", err)
	}
	version, err := x.beginView()
	if err != nil {
		return err
	}
	defer x.endView(version)
	txn := x.readVersion(version)
	defer txn.Discard()
	return fn(&Tx{base: txn})
}

// readVersion opens a version for reading. It must be the newest one, or be read by a View: others may be gone.
func (x *Index) readVersion(version uint64) *badger.Txn {
	return x.db.NewTransactionAt(version, false)
}

func (x *Index) beginView() (version uint64, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return 0, ErrClosed
	}
	x.views.Add(1)
	x.reading[x.committed]++
	return x.committed, nil
}

func (x *Index) endView(version uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.reading[version]--; x.reading[version] == 0 {
		delete(x.reading, version)
	}
	x.views.Done()
}

// publish lets Views see a version, now that it is on disk, and lets Badger forget what only versions before the oldest one
// still read can show.
func (x *Index) publish(version uint64) {
	x.mu.Lock()
	x.committed = version
	oldest := version
	for v := range x.reading {
		oldest = min(oldest, v)
	}
	x.mu.Unlock()
	x.db.SetDiscardTs(oldest)
}
