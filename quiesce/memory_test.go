package quiesce

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// migratingMonitor takes a descriptor and tells the states one after another.
func migratingMonitor(t *testing.T, changes map[string]answer, states ...answer) *scripted {
	answers := map[string]answer{
		"getfd":                    returning("{}"),
		"query-migrate-parameters": returning(`{"max-bandwidth": 134217728}`),
		"migrate-set-parameters":   returning("{}"),
		"migrate-set-capabilities": returning("{}"),
		"migrate":                  returning("{}"),
		"migrate-continue":         returning("{}"),
		"migrate_cancel":           returning("{}"),
		"query-migrate":            inTurn(states...),
		"query-status":             inTurn(isRunning, isPaused),
	}
	maps.Copy(answers, changes)
	return goodMonitor(t, answers)
}

func pass(n string) answer {
	return returning(`{"status": "active", "ram": {"transferred": 1, "remaining": 2, "dirty-sync-count": ` + n + `}}`)
}

var completed = returning(`{"status": "completed"}`)

func save(t *testing.T, p *scripted, timeout Duration) (taken, []Progress) {
	image, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	require.NoError(t, err)
	defer image.Close()
	var progress []Progress
	r := running(pausePolicy(p, timeout))
	r.Memory = &Memory{File: image, Progress: func(p Progress) error {
		progress = append(progress, p)
		return nil
	}}
	return take(t, r, nil), progress
}

// A guest that changes its memory faster than it can be saved is stopped after two passes.
func TestMemoryPasses(t *testing.T) {
	p := migratingMonitor(t, nil, returning(`{"status": "setup"}`), pass("1"), pass("3"), pass("3"),
		returning(`{"status": "pre-switchover"}`), returning(`{"status": "device"}`), completed)
	got, progress := save(t, p, long)
	require.NoError(t, got.err)
	require.Equal(t, []Progress{{}, {1, 2, 1}, {1, 2, 3}, {1, 2, 3}, {}}, progress)
	require.Positive(t, got.Paused)
	steps := slices.DeleteFunc(p.seen(), func(name string) bool { return strings.Contains(name, "q") || strings.Contains(name, "set") })
	require.Equal(t, []string{"getfd", "migrate", "stop", "migrate-continue", "cont"}, steps)
}

// A machine that QEMU emulates is stopped before.
func TestMemoryEmulated(t *testing.T) {
	p := migratingMonitor(t, map[string]answer{"query-kvm": returning(`{"enabled": false, "present": true}`)},
		pass("1"), returning(`{"status": "pre-switchover"}`), completed)
	got, _ := save(t, p, long)
	require.NoError(t, got.err)
	require.Positive(t, got.Paused)
	steps := slices.DeleteFunc(p.seen(), func(name string) bool { return strings.Contains(name, "q") || strings.Contains(name, "set") })
	require.Equal(t, []string{"stop", "getfd", "migrate", "migrate-continue", "cont"}, steps)
}

// A migration that fails, or a monitor that goes away in the middle of it, fails the snapshot; the guest goes on.
func TestMemoryFails(t *testing.T) {
	for name, states := range map[string][]answer{
		"fails":    {pass("1"), returning(`{"status": "failed", "error-desc": "No space left"}`)},
		"ends":     {pass("1"), returning(`{}`)},
		"garbage":  {pass("1"), returning(`[]`), pass("1"), returning(`{"status": "cancelled"}`)},
		"hangs up": {pass("1"), hangUp, pass("1"), returning(`{"status": "cancelled"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			p := migratingMonitor(t, nil, states...)
			got, _ := save(t, p, long)
			require.ErrorIs(t, got.err, syscall.EIO)
			require.Zero(t, got.swaps)
			require.Nil(t, got.Held)
			require.Nil(t, got.marked)
			require.Equal(t, len(states) > 2, slices.Contains(p.seen(), "migrate_cancel"), "it was still under way")
			require.Contains(t, p.seen(), "cont")
		})
	}
}

// A machine that does not go on after its memory was saved stays written down.
func TestMemoryNeverGoesOn(t *testing.T) {
	p := migratingMonitor(t, map[string]answer{"cont": silence}, completed)
	got, _ := save(t, p, short)
	require.ErrorIs(t, got.err, syscall.ETIMEDOUT)
	require.True(t, got.Swapped)
	require.Equal(t, &Held{QMP: p.path, Running: true, Memory: true}, got.Held)
	require.Equal(t, got.Held, got.marked)
}
