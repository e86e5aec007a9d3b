package quiesce

// Saving a machine's memory: a migration into a file, while the machine runs for as long as that is worth it.

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"
)

const (
	// memoryName is what QEMU calls the descriptor of the image.
	memoryName = "snapfs-memory"

	// memoryPoll is between two looks at how far a migration is: the machine may stand still meanwhile. It is stillPoll
	// when that is known.
	memoryPoll = 5 * time.Millisecond
	stillPoll  = time.Millisecond

	// memoryBandwidth lifts QEMU's limit of 128 MiB/s, which is meant for networks; bytes a second.
	memoryBandwidth = 1 << 40
)

// Memory is where a machine's memory is saved.
type Memory struct {
	File     *os.File             // takes the image from its present offset on; syncing it is the caller's
	Progress func(Progress) error // called every now and then; an error ends it. It may be nil.
}

// Progress is how far a migration is; bytes.
type Progress struct {
	Transferred int64
	Remaining   int64
	Pass        int // over all of the memory, from 1; what the guest has changed since is sent once more
}

// migration is what query-migrate tells.
type migration struct {
	Status    string `json:"status"`
	ErrorDesc string `json:"error-desc"`
	RAM       struct {
		Transferred int64 `json:"transferred"`
		Remaining   int64 `json:"remaining"`
		Passes      int   `json:"dirty-sync-count"`
	} `json:"ram"`
}

func (m migration) underWay() bool {
	switch m.Status {
	case "", "none", "completed", "failed", "cancelled":
		return false
	}
	return true
}

// why says what became of a migration that is not under way any more.
func (m migration) why() error {
	if m.ErrorDesc == "" {
		return fmt.Errorf("it is %s", printable(cmp.Or(m.Status, "none")))
	}
	return fmt.Errorf("it is %s: %s", printable(m.Status), printable(m.ErrorDesc))
}

func (q *QMP) migration(ctx context.Context) (migration, error) {
	var m migration
	err := q.Execute(ctx, "query-migrate", nil, &m)
	return m, err
}

// cancelMigration returns once none is under way. One that is writing the devices' state is waited for: the disks have
// been handed over by then, and QEMU 7.2 would go on without having taken them back, and abort at the next write.
func (q *QMP) cancelMigration(ctx context.Context) error {
	for {
		m, err := q.migration(ctx)
		if err != nil || !m.underWay() {
			return err
		}
		switch m.Status {
		case "device":
		case "cancelling": // just before the pause QEMU 7.2 misses that, and pauses for ever
			err = q.Execute(ctx, "migrate-continue", map[string]any{"state": m.Status}, nil)
		default:
			err = q.Execute(ctx, "migrate_cancel", nil, nil)
		}
		if err != nil && !answered(err) { // an answer is that the status is another by now
			return err
		}
		if err := sleep(ctx, memoryPoll); err != nil {
			return failed(err, "monitor %s: migrate_cancel", q.address)
		}
	}
}

// setPause makes migrations wait before they write the devices' state, or not.
func (q *QMP) setPause(ctx context.Context, on bool) error {
	pause := map[string]any{"capability": "pause-before-switchover", "state": on}
	return q.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []any{pause}}, nil)
}

// setBandwidth gives back what the limit was.
func (q *QMP) setBandwidth(ctx context.Context, limit int64) (old int64, err error) {
	var now struct {
		Limit int64 `json:"max-bandwidth"`
	}
	if err := q.Execute(ctx, "query-migrate-parameters", nil, &now); err != nil {
		return 0, err
	}
	return now.Limit, q.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": limit}, nil)
}

// saving is a migration into a file that is under way.
//
// It goes on by itself until all but the devices' state is written or can be at once. There, with the machine stopped,
// it waits to be told to finish. Before that it can be cancelled at any time, after that it is waited for.
type saving struct {
	qmp       *QMP
	progress  func(Progress) error
	limit     int64 // of bandwidth, as it was
	began     time.Time
	firstPass time.Duration // what it took, once it is over
	stoppedAt time.Time     // since when the machine stands still
	continued bool          // it was told to finish
}

// run hands QEMU the file and returns once the image is complete and the machine stands still.
func (v *saving) run(ctx context.Context, f *os.File) error {
	if err := v.start(ctx, f); err != nil {
		return err
	}
	for {
		done, err := v.step(ctx)
		if err != nil || done {
			return err
		}
		pause := memoryPoll
		if !v.stoppedAt.IsZero() {
			pause = stillPoll
		}
		if err := sleep(ctx, pause); err != nil {
			return failed(err, "monitor %s: migrate", v.qmp.address)
		}
	}
}

func (v *saving) start(ctx context.Context, f *os.File) (err error) {
	if v.limit, err = v.qmp.setBandwidth(ctx, memoryBandwidth); err != nil {
		return err
	}
	if err := v.qmp.setPause(ctx, true); err != nil {
		return err
	}
	if v.mustStop(ctx) {
		v.stoppedAt = time.Now()
		if err := v.qmp.Stop(ctx); err != nil {
			return err
		}
	}
	if err := v.qmp.passFile(ctx, memoryName, f); err != nil {
		return err
	}
	v.began = time.Now()
	return v.qmp.Execute(ctx, "migrate", map[string]any{"uri": "fd:" + memoryName}, nil)
}

// liveEmulated has machines without KVM saved while they run, too. Only tests set it.
var liveEmulated = false

// mustStop says whether the machine can't be saved while it runs. One that QEMU emulates, without KVM, changes pages now
// and then of which QEMU 7.2 does not learn that they have changed, and the image has them as they were.
func (v *saving) mustStop(ctx context.Context) bool {
	var kvm struct{ Enabled bool }
	err := v.qmp.Execute(ctx, "query-kvm", nil, &kvm)
	return err == nil && !kvm.Enabled && !liveEmulated
}

// restore leaves the monitor as it was for whoever migrates the machine elsewhere.
func (v *saving) restore(ctx context.Context) error {
	if v.limit == 0 { // it was not even asked
		return nil
	}
	if _, err := v.qmp.setBandwidth(ctx, v.limit); err != nil {
		return err
	}
	return v.qmp.setPause(ctx, false)
}

// step looks at how far it is, stops the machine when its time is over, and lets the migration finish.
func (v *saving) step(ctx context.Context) (done bool, err error) {
	now, err := v.qmp.migration(ctx)
	switch {
	case err != nil:
		return false, err
	case now.Status == "completed":
		return true, nil
	case now.Status == "device":
		return false, nil
	case !now.underWay():
		return false, failed(now.why(), "monitor %s: migrate", v.qmp.address)
	}
	if v.progress != nil {
		if err := v.progress(Progress{now.RAM.Transferred, now.RAM.Remaining, now.RAM.Passes}); err != nil {
			return false, err
		}
	}
	paused := now.Status == "pre-switchover"
	if v.stoppedAt.IsZero() && (paused || v.over(now.RAM.Passes)) {
		v.stoppedAt = time.Now()
		if !paused {
			return false, v.qmp.Stop(ctx)
		}
	}
	if paused && !v.continued {
		v.continued = true // its status may be what it was for a moment
		return false, v.qmp.Execute(ctx, "migrate-continue", map[string]any{"state": now.Status}, nil)
	}
	return false, nil
}

// over says whether the machine has run for long enough: two passes, or twice the time of the first. What it changes
// faster than that is never caught up with.
func (v *saving) over(pass int) bool {
	if v.firstPass == 0 && pass > 1 {
		v.firstPass = time.Since(v.began)
	}
	return pass > 2 || v.firstPass > 0 && time.Since(v.began) > 2*v.firstPass
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// holdMemory saves the memory, swaps while the machine stands still, and lets it go on.
func (s *Session) holdMemory(ctx context.Context, swap func() error) error {
	held := &Held{QMP: s.req.Policy.QMP, Running: s.ran, Memory: true}
	if err := s.mark(held); err != nil {
		return err
	}
	v := &saving{qmp: s.qmp, progress: s.req.Memory.Progress}
	err := v.run(ctx, s.req.Memory.File)
	if err == nil {
		err = swap()
	}
	letGo, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout())
	defer cancel()
	stuck := s.qmp.resume(letGo, *held)
	if !v.stoppedAt.IsZero() {
		s.outcome.Paused = time.Since(v.stoppedAt)
	}
	if stuck == nil {
		s.unmark()
		if err := v.restore(letGo); err != nil {
			s.warn("%v", err)
		}
		return err
	}
	s.outcome.Held = held
	if err == nil {
		err = stuck
	}
	return err
}
