package blockmap

// This file is the writing side of the index: one goroutine that commits what was asked for in groups. A synced commit
// costs one sync however much is in it, so all that queues while one commit runs goes into the next one.

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// update is an Update that waits for its commit.
type update struct {
	fn      func(*Tx) error
	freeing bool // it gives room back
	err     error
	done    chan struct{}
}

// group is what is committed together.
type group struct {
	base    *badger.Txn // what was committed before it, read-only
	writes  pending
	members []*update
}

// Update runs fn in a transaction and returns once that is on disk: all of it or, after an error or a crash, nothing.
//
// The fns of all Updates run one after the other on a single goroutine, each sees what those before it wrote, and those
// that queue up are committed together. So fn must not call Update, nor wait for anything that may be waiting for one. If
// fn returns an error, or wrote more than MaxTx (ErrTooLarge), nothing of it is written and that error returned; the others
// go on. When a commit fails, all in its group and every later Update get an error that is ErrFailed.
// Where the file system has no room for what Badger will need soon, Updates get ErrFull before fn is called.
// The Tx must not be used after fn has returned.
func (x *Index) Update(fn func(*Tx) error) error {
	return x.await(&update{fn: fn, done: make(chan struct{})})
}

// UpdateFreeing is Update for what gives room back: on a full file system it goes on for a few MiB where Update does not.
func (x *Index) UpdateFreeing(fn func(*Tx) error) error {
	return x.await(&update{fn: fn, freeing: true, done: make(chan struct{})})
}

func (x *Index) await(u *update) error {
	if err := x.enqueue(u); err != nil {
		return err
	}
	<-u.done
	return u.err
}

func (x *Index) enqueue(u *update) error {
	if x.private != "" {
		return ErrReadOnly
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrClosed
	}
	x.queue = append(x.queue, u)
	x.wake.Signal()
	return nil
}

// MaxTx returns how many bytes, as counted by Tx.Size, one Update can write.
func (x *Index) MaxTx() int { return x.maxTx }

// maxTransaction is a little less than what Badger takes in one transaction; entryOverhead sees to it that its limit on the
// number of entries is kept together with that on their bytes.
func maxTransaction(db *badger.DB) int {
	return int(db.MaxBatchSize()) - 64<<10
}

// writer runs until the index is closed and nothing is queued any more.
func (x *Index) writer() {
	defer close(x.writerDone)
	for {
		updates := x.next()
		if updates == nil {
			return
		}
		x.run(updates)
	}
}

// next waits for updates and takes all there are; nil when the index is closed.
func (x *Index) next() []*update {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.queue) == 0 && !x.closed {
		x.wake.Wait()
	}
	updates := x.queue
	x.queue = nil
	return updates
}

// run carries out updates in one group, or several if they are too much for one transaction.
func (x *Index) run(updates []*update) {
	g := x.newGroup()
	for _, u := range updates {
		tx := &Tx{base: g.base, group: &g.writes, own: new(pending)}
		u.err = x.try(u, g, tx)
		if u.err == nil && g.writes.size+tx.own.size > x.maxTx {
			// What fn has read stays true: it is now committed instead of pending.
			x.finish(g)
			g = x.newGroup()
		}
		if u.err == nil {
			g.writes.merge(tx.own)
		}
		g.members = append(g.members, u)
	}
	x.finish(g)
}

// try runs the fn of an update that may become part of g.
func (x *Index) try(u *update, g *group, tx *Tx) error {
	if err := x.failed(); err != nil {
		return err
	}
	left := x.room.left(u.freeing) - int64(g.writes.size)
	if left <= 0 {
		return x.full()
	}
	if err := x.call(u.fn, tx); err != nil {
		return err
	}
	if int64(tx.own.size) > left {
		return x.full()
	}
	return nil
}

func (x *Index) full() error {
	return fmt.Errorf("%w: it is about to need %d MiB", ErrFull, x.room.need()>>20)
}

// call runs the fn of one update against its own buffer.
func (x *Index) call(fn func(*Tx) error, tx *Tx) error {
	if err := fn(tx); err != nil {
		return err
	}
	if tx.own.size > x.maxTx || tx.own.oversize {
		return fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, tx.own.size, x.maxTx)
	}
	return nil
}

func (x *Index) newGroup() *group {
	return &group{base: x.readVersion(x.committed)}
}

// finish commits a group and tells its members, also those that failed on their own: what they saw may have been written
// by others of the group and is true only now.
func (x *Index) finish(g *group) {
	g.base.Discard()
	err := x.failed()
	if err == nil && len(g.writes.values) > 0 {
		if err = x.write(&g.writes); err != nil {
			err = x.fail(err)
		}
	}
	for _, u := range g.members {
		if u.err == nil {
			u.err = err
		}
		close(u.done)
	}
}

// write commits a group's writes as the next version, in one Badger transaction with one sync.
func (x *Index) write(p *pending) error {
	version := x.committed + 1
	txn := x.db.NewTransactionAt(x.committed, true)
	defer txn.Discard()
	for key, value := range p.values {
		var err error
		if value == nil {
			err = txn.Delete([]byte(key))
		} else {
			err = txn.Set([]byte(key), value)
		}
		if err != nil {
			return err
		}
	}
	if x.counter != nil {
		if err := txn.Set(markKey, x.counter.markOf(version)); err != nil {
			return err
		}
	}
	if err := x.commit(txn, version); err != nil {
		return err
	}
	if x.counter != nil {
		_ = x.counter.write(version) // it may lag
	}
	x.publish(version)
	x.room.wrote(p)
	return nil
}

// fail makes the index refuse every later Update: part of a failed commit may be on disk, and a sync that fails once may
// report success the next time, though what it should have written is lost.
func (x *Index) fail(cause error) error {
	err := fmt.Errorf("%w: commit: %w", ErrFailed, cause)
	x.mu.Lock()
	x.failure = err
	x.mu.Unlock()
	if x.notify != nil {
		x.notify(err)
	}
	return err
}

// failed returns why the index has failed, or nil.
func (x *Index) failed() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failure
}
