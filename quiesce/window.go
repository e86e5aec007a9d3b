package quiesce

// The frozen window: the time in which a guest is held, kept by the host's clock.

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// holder can hold a guest still.
type holder interface {
	// hold returns once the guest is still. Whatever it returns, release has to follow.
	hold(ctx context.Context) error

	// release lets go. An error says that the guest may still be held; moved why it was not still all the time.
	release(ctx context.Context) (moved, err error)
}

// retryTime is between two tries to let go of a guest.
const retryTime = 50 * time.Millisecond

// window is what came of holding a guest.
type window struct {
	timeout time.Duration
	took    time.Duration // from asking it to be still to having let go
	holdErr error         // why it was not still
	swapErr error         // what the swap returned, if the guest was still
	late    bool          // the time was over before it had been let go
	moved   error         // why it was not still all the time
	stuck   error         // why it may still be held
}

// openWindow holds the guest, swaps, and lets go. The last tenth of the time is for letting go, which goes on for as
// long again if it must. The swap is never left running, but the guest does not wait for one that takes too long.
func openWindow(ctx context.Context, guest holder, timeout time.Duration, swap func() error) *window {
	w := &window{timeout: timeout}
	began := time.Now()
	deadline := began.Add(timeout)
	holding, cancel := context.WithDeadline(ctx, deadline.Add(-timeout/10))
	defer cancel()
	swapped := make(chan struct{})
	if w.holdErr = guest.hold(holding); w.holdErr != nil {
		close(swapped)
	} else {
		go func() {
			defer close(swapped)
			w.swapErr = swap()
		}()
	}
	select {
	case <-swapped:
	case <-time.After(time.Until(deadline.Add(-timeout / 10))):
		w.late = true
	}
	w.letGo(context.WithoutCancel(ctx), guest, deadline)
	w.took = time.Since(began)
	<-swapped
	return w
}

// letGo tries until it succeeds: on the connection that there is for half of the time left, then on new ones.
func (w *window) letGo(ctx context.Context, guest holder, deadline time.Time) {
	for _, end := range []time.Time{
		time.Now().Add(time.Until(deadline) / 2), deadline, deadline.Add(w.timeout),
	} {
		w.moved, w.stuck = tryUntil(ctx, guest, end)
		if w.stuck == nil {
			break
		}
	}
	if time.Now().After(deadline) {
		w.late = true
	}
}

func tryUntil(ctx context.Context, guest holder, end time.Time) (moved, err error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	for {
		moved, err = guest.release(ctx)
		switch {
		case err == nil:
			return moved, nil
		case Gone(err): // it died, which ended that too
			return err, nil
		}
		select {
		case <-time.After(retryTime):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// countError says that freeze and thaw do not agree.
type countError struct{ frozen, thawed int }

func (e *countError) Error() string {
	return fmt.Sprintf("the guest froze %d file systems but thawed %d", e.frozen, e.thawed)
}

// err is why the guest was not held as it should have been.
func (w *window) err() error {
	switch {
	case w.holdErr != nil:
		return w.holdErr
	case w.stuck != nil:
		return &Error{Errno: syscall.ETIMEDOUT, Text: "the guest may still be held: " + w.stuck.Error(), cause: w.stuck}
	case w.late:
		return &Error{Errno: syscall.ETIMEDOUT, Text: fmt.Sprintf("the guest was held for more than %v", w.timeout)}
	}
	return nil
}
