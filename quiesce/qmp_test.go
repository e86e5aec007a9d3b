package quiesce

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goodMonitor is one of a machine that runs.
func goodMonitor(t *testing.T, changes map[string]answer) *scripted {
	answers := map[string]answer{
		"greeting":         says(`{"QMP": {"version": {}, "capabilities": ["oob"]}}`),
		"qmp_capabilities": returning("{}"),
		"query-status":     returning(`{"running": true, "status": "running"}`),
		"stop":             returning("{}"),
		"cont":             returning("{}"),
	}
	maps.Copy(answers, changes)
	return listen(t, &scripted{ids: true, answers: answers})
}

func pausePolicy(p *scripted, timeout Duration) Policy {
	policy := DefaultPolicy()
	policy.Mode, policy.QMP, policy.Timeout = ModePause, p.path, timeout
	return policy
}

var (
	isRunning = returning(`{"running": true, "status": "running"}`)
	isPaused  = returning(`{"running": false, "status": "paused"}`)
)

// A machine that runs is stopped for the swap, and goes on.
func TestPause(t *testing.T) {
	p := goodMonitor(t, map[string]answer{"query-status": inTurn(isRunning, isPaused)})
	got := take(t, running(pausePolicy(p, long)), func() error {
		require.Equal(t, []string{"qmp_capabilities", "query-status", "stop"}, p.seen())
		return nil
	})
	require.NoError(t, got.err)
	require.Equal(t, Crash, got.Consistency)
	require.Positive(t, got.Paused)
	require.Nil(t, got.marked)
	require.Equal(t, []string{"qmp_capabilities", "query-status", "stop", "query-status", "cont"}, p.seen())
}

// A machine that does not run is neither stopped nor made to.
func TestPaused(t *testing.T) {
	p := goodMonitor(t, map[string]answer{"query-status": isPaused})
	got := take(t, running(pausePolicy(p, long)), nil)
	require.NoError(t, got.err)
	require.True(t, got.Swapped)
	require.Equal(t, []string{"qmp_capabilities", "query-status"}, p.seen())
}

// A monitor that does not stop the machine fails the snapshot; the machine goes on anyway.
func TestBadStop(t *testing.T) {
	for name, test := range map[string]struct {
		stop    answer
		errno   syscall.Errno
		timeout Duration
	}{
		"refuses":       {failing("GenericError"), syscall.EIO, long},
		"garbage":       {says("]"), syscall.EIO, long},
		"hangs up":      {hangUp, syscall.EIO, long},
		"never answers": {silence, syscall.ETIMEDOUT, short},
	} {
		t.Run(name, func(t *testing.T) {
			p := goodMonitor(t, map[string]answer{"stop": test.stop, "query-status": inTurn(isRunning, isPaused)})
			got := take(t, running(pausePolicy(p, test.timeout)), nil)
			require.ErrorIs(t, got.err, test.errno)
			require.Zero(t, got.swaps)
			require.Nil(t, got.Held)
			require.Contains(t, p.seen(), "cont")
		})
	}
}

// A swap that fails leaves the machine running, and its error comes back as it is.
func TestPauseFailingSwap(t *testing.T) {
	bad := errors.New("no swap")
	p := goodMonitor(t, map[string]answer{"query-status": inTurn(isRunning, isPaused)})
	got := take(t, running(pausePolicy(p, long)), func() error { return bad })
	require.Equal(t, bad, got.err)
	require.Contains(t, p.seen(), "cont")
}

// A machine that does not go on stays written down.
func TestNeverGoesOn(t *testing.T) {
	p := goodMonitor(t, map[string]answer{"query-status": inTurn(isRunning, isPaused), "cont": silence})
	got := take(t, running(pausePolicy(p, short)), nil)
	require.ErrorIs(t, got.err, syscall.ETIMEDOUT)
	require.True(t, got.Swapped)
	require.Equal(t, &Held{QMP: p.path, Running: true}, got.Held)
	require.Equal(t, got.Held, got.marked)
}

// A monitor that is busy with another client, or is none, costs the timeout at most.
func TestNoMonitor(t *testing.T) {
	for name, test := range map[string]struct {
		greet   answer
		errno   syscall.Errno
		timeout Duration
	}{
		"busy":     {silence, syscall.ETIMEDOUT, short},
		"none":     {returning("{}"), syscall.EIO, long},
		"garbage":  {says("SSH-2.0-OpenSSH_9.2"), syscall.EIO, long},
		"hangs up": {hangUp, syscall.EIO, long},
	} {
		t.Run(name, func(t *testing.T) {
			p := goodMonitor(t, map[string]answer{"greeting": test.greet})
			got := take(t, running(pausePolicy(p, test.timeout)), nil)
			require.ErrorIs(t, got.err, test.errno)
			require.Empty(t, p.seen())
		})
	}
}

// Events, and answers to other commands, come in between.
func TestExecute(t *testing.T) {
	p := goodMonitor(t, map[string]answer{"query-status": func(c *client, _ json.RawMessage) {
		c.say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}`)
		c.say(`{"return": {"running": true}, "id": 4711}`)
		c.say(`{"return": {"running": true}, "id": "2"}`)
		c.say(``)
		c.say(`{"return": {"running": false, "status": "io-error"}, "id": %s}`, c.id)
	}})
	q, err := DialQMP(context.Background(), p.path)
	require.NoError(t, err)
	defer q.Close()
	state, err := q.Status(context.Background())
	require.NoError(t, err)
	require.Equal(t, RunState{Running: false, Status: "io-error"}, state)

	err = q.Execute(context.Background(), "human-monitor-command", nil, nil)
	var said *CommandError
	require.ErrorAs(t, err, &said)
	require.Equal(t, "CommandNotFound", said.Class)
	require.Equal(t, 1, p.connections(), "an error is an answer")

	var number int
	require.ErrorIs(t, q.Execute(context.Background(), "stop", nil, &number), syscall.EIO)
}

// Letting go after a crash: a machine that was stopped for a snapshot goes on, one that stands still for a reason of its
// own does not.
func TestReleaseMachine(t *testing.T) {
	for status, goesOn := range map[string]bool{
		"paused": true, "postmigrate": true, "finish-migrate": true, "running": false, "io-error": false, "shutdown": false,
	} {
		t.Run(status, func(t *testing.T) {
			runs := map[bool]string{true: "true", false: "false"}[status == "running"]
			p := goodMonitor(t, map[string]answer{
				"query-status": returning(`{"running": ` + runs + `, "status": "` + status + `"}`),
			})
			require.NoError(t, Release(context.Background(), Held{QMP: p.path, Running: true}))
			require.Equal(t, goesOn, p.seen()[len(p.seen())-1] == "cont")
		})
	}
	t.Run("saving its memory", func(t *testing.T) {
		p := goodMonitor(t, map[string]answer{
			"migrate_cancel": returning("{}"),
			"query-migrate":  inTurn(returning(`{"status": "active"}`), returning(`{"status": "cancelled"}`)),
			"query-status":   isPaused,
		})
		require.NoError(t, Release(context.Background(), Held{QMP: p.path, Running: true, Memory: true}))
		require.Equal(t, []string{"qmp_capabilities", "query-migrate", "migrate_cancel", "query-migrate", "query-status", "cont"}, p.seen())
	})
	t.Run("gone", func(t *testing.T) {
		p := goodMonitor(t, map[string]answer{"query-status": hangUp})
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(short))
		defer cancel()
		require.Error(t, Release(ctx, Held{QMP: p.path, Running: true}))
		require.NoError(t, Release(context.Background(), Held{QMP: p.path + "-gone", Running: true}))
	})
}

// QEMU names the same image in many ways.
func TestImageFile(t *testing.T) {
	for name, file := range map[string]string{
		"/vm/root.img":      "/vm/root.img",
		"file:/vm/root.img": "/vm/root.img",
		`json:{"driver":"raw","file":{"driver":"file","filename":"/vm/root.img"}}`:                         "/vm/root.img",
		`json:{"throttle-group":"g","driver":"throttle","file":{"driver":"raw","file":{"filename":"/a"}}}`: "/a",
		`json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}`:                                       `json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}`,
		`json:{"driver":"raw","file":"node0"}`:                                                             `json:{"driver":"raw","file":"node0"}`,
		`json:{"driver":"raw","file":null}`:                                                                `json:{"driver":"raw","file":null}`,
		`json:{`:                                                                                           `json:{`,
		"nbd://h/x":                                                                                        "nbd://h/x",
		"":                                                                                                 "",
	} {
		require.Equal(t, file, imageFile(name))
	}
}
