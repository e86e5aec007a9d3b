package quiesce

// QEMU's monitor: its commands for the run state and for what machine it is.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// QMP is a QEMU monitor. One goroutine at a time may use it. A context without a deadline is given one of 10 s. Errors
// are an [Error]: ETIMEDOUT for no answer, EIO otherwise, with a [CommandError] for what the monitor answered.
type QMP struct {
	address string
	peer    peer
}

// DialQMP reaches the monitor at an address, as [CheckAddress] says. A monitor talks to one client at a time: the
// others wait for it to hang up.
func DialQMP(ctx context.Context, address string) (*QMP, error) {
	q := openQMP(address)
	if err := q.peer.connect(ctx); err != nil {
		q.Close()
		return nil, failed(err, "monitor %s", address)
	}
	return q, nil
}

// openQMP does nothing yet: the first call connects.
func openQMP(address string) *QMP {
	if domain, ok := strings.CutPrefix(address, libvirtPrefix); ok {
		return &QMP{address: address, peer: &virsh{verb: "qemu-monitor-command", domain: domain}}
	}
	return &QMP{address: address, peer: &qmpConn{path: address}}
}

// Close hangs up.
func (q *QMP) Close() { q.peer.close() }

// Execute runs a command. Args are what its arguments are marshalled from, nil for none; into is what the answer
// is unmarshalled into, nil to drop it.
func (q *QMP) Execute(ctx context.Context, name string, args, into any) error {
	return q.call(ctx, command{name: name, args: args}, into)
}

func (q *QMP) call(ctx context.Context, c command, into any) error {
	value, err := q.peer.call(ctx, c)
	if err == nil && into != nil {
		if err = json.Unmarshal(value, into); err != nil {
			err = fmt.Errorf("garbage for an answer: %.60q", value)
		}
	}
	if err != nil {
		return failed(err, "monitor %s: %s", q.address, c.name)
	}
	return nil
}

// RunState is whether a machine runs and, if not, why.
type RunState struct {
	Running bool   `json:"running"`
	Status  string `json:"status"` // as "running", "paused", "postmigrate", "io-error"
}

// held says whether the machine stands still because somebody stopped it, not for an error of its own.
func (s RunState) held() bool {
	return !s.Running && (s.Status == "paused" || s.Status == "postmigrate" || s.Status == "finish-migrate")
}

// Status asks for the run state.
func (q *QMP) Status(ctx context.Context) (RunState, error) {
	var s RunState
	err := q.Execute(ctx, "query-status", nil, &s)
	return s, err
}

// Stop stops the virtual CPUs. QEMU flushes all disks before it answers.
func (q *QMP) Stop(ctx context.Context) error { return q.Execute(ctx, "stop", nil, nil) }

// Cont lets the virtual CPUs go on.
func (q *QMP) Cont(ctx context.Context) error { return q.Execute(ctx, "cont", nil, nil) }

// ResetStopped does what the machine's reset button does, while the machine is stopped, and returns when it is done: a
// machine that went on before could still write what it had in memory.
func (q *QMP) ResetStopped(ctx context.Context) error {
	if err := q.Execute(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	for {
		state, err := q.Status(ctx)
		switch {
		case err != nil:
			return err
		case state.Status == "prelaunch":
			return nil
		case state.Status == "shutdown" || state.Running:
			return failed(fmt.Errorf("the machine is %q after it", printable(state.Status)), "monitor %s: system_reset", q.address)
		}
		if err := sleep(ctx, resetPoll); err != nil {
			return failed(err, "monitor %s: system_reset", q.address)
		}
	}
}

// resetPoll is between two looks at whether a machine has been reset.
const resetPoll = 5 * time.Millisecond

// passFile gives QEMU a descriptor under a name.
func (q *QMP) passFile(ctx context.Context, name string, f *os.File) error {
	return q.call(ctx, command{name: "getfd", args: map[string]any{"fdname": name}, file: f}, nil)
}
