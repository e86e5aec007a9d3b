package blockmap

// This file closes the index. Badger, to be closed, writes the memtable into a table, and tries for ever where it can't: on a
// file system that has gone read-only, say. It is left then as a kill would leave it, which loses nothing, as all that was
// committed is in its log, synced.

import (
	"errors"
	"fmt"
)

// ErrLeftOpen says that the index could not be closed in order. Nothing that was committed is lost, but until this process
// ends, something in it may still write to the index.
var ErrLeftOpen = errors.New("left as by a kill, which loses nothing that was committed")

// Close waits for the Updates and Views under way and closes the database. Later ones get ErrClosed. Close may be called twice.
func (x *Index) Close() error {
	x.closeOnce.Do(func() {
		x.mu.Lock()
		x.closed = true
		x.wake.Signal()
		x.mu.Unlock()
		<-x.writerDone
		x.views.Wait()
		if err := x.closeDB(); err != nil {
			x.closeErr = fmt.Errorf("close index: %w", err)
		}
	})
	return x.closeErr
}

// closeDB closes Badger. Without room for the table that this takes it is not tried.
func (x *Index) closeDB() error {
	if x.private != "" {
		return x.closePrivate()
	}
	err := x.room.close() // an empty log more is no reason not to
	if n := x.room.filled + headersSize; !x.room.ask(n, true) {
		return fmt.Errorf("%w: closing it takes %d MiB; nothing is lost", ErrFull, n>>20)
	}
	return errors.Join(err, x.log.close(), x.closeBadger(), x.counter.close())
}

// closeBadger waits for Badger's end, or for the first thing that fails meanwhile.
func (x *Index) closeBadger() error {
	select {
	case <-x.complaints: // of before, and over perhaps
	default:
	}
	closed := make(chan error, 1)
	go func() { closed <- x.db.Close() }()
	select {
	case err := <-closed:
		return err
	case err := <-x.complaints:
		return fmt.Errorf("%w: %w", ErrLeftOpen, err)
	}
}

// complaints, one at a time, are the errors that Badger tells to nobody but its logger.
type complaints chan error

func (c complaints) Errorf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			err = cause
		}
	}
	select {
	case c <- err:
	default:
	}
}

func (complaints) Warningf(string, ...any) {}
func (complaints) Infof(string, ...any)    {}
func (complaints) Debugf(string, ...any)   {}
