package main

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// planned is a store whose schedules run by a clock of the test's.
type planned struct {
	*testing.T
	*schedule
	events *fs.EventLog
	now    time.Time
}

func newPlanned(t *testing.T) *planned {
	p := &planned{T: t, events: fs.NewEventLog(), now: time.Date(2026, 3, 4, 12, 30, 0, 0, time.Local)}
	store, err := layer.Open(t.TempDir(), layer.Options{Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	p.restart(store)
	return p
}

// restart is what a new daemon knows.
func (p *planned) restart(store *layer.Store) {
	p.schedule = newSchedule(filepath.Join(store.Dir(), "schedule"), store, func(v *layer.VM, r fs.CreateRequest) (fs.Created, error) {
		info, err := v.CreateSnapshot(r.CreateOptions)
		return fs.Created{SnapshotInfo: info}, err
	}, p.events.Add)
}

func (p *planned) vm(name, policy string) *layer.VM {
	v, err := p.store.CreateVM(name, 0o755, 0, 0)
	require.NoError(p, err)
	_, _, err = v.Create("root.img", 0o600, 0, 0, true)
	require.NoError(p, err)
	p.set(v, policy)
	return v
}

func (p *planned) set(v *layer.VM, policy string) {
	parsed, err := layer.ParsePolicy([]byte(policy))
	require.NoError(p, err)
	require.NoError(p, v.SetPolicy(parsed))
}

// at lets time pass until then, and waits for what that starts.
func (p *planned) at(hours, minutes int) (sleep time.Duration) {
	p.now = time.Date(2026, 3, 4, hours, minutes, 0, 0, time.Local)
	sleep = p.tick(context.Background(), p.now)
	p.work.Wait()
	return sleep
}

func taken(v *layer.VM) int { return len(v.Snapshots()) }

func TestSchedule(t *testing.T) {
	p := newPlanned(t)
	v := p.vm("web", `{"schedule": "0 * * * *"}`)
	other := p.vm("db", `{}`)
	p.at(12, 30)
	require.Equal(t, 20*time.Second, p.tick(t.Context(), p.now.Add(29*time.Minute+40*time.Second)))
	require.Zero(t, taken(v))
	require.Equal(t, longestSleep, p.at(13, 0))
	require.Equal(t, 1, taken(v))
	n := v.Snapshots()[0]
	require.Equal(t, "auto-"+p.now.UTC().Format("20060102T150405Z"), n.Name())
	require.True(t, n.Auto)
	p.at(13, 1)
	require.Equal(t, 1, taken(v))

	p.restart(p.store)
	p.at(13, 2)
	require.Equal(t, 1, taken(v), "a restart repeats nothing")
	p.restart(p.store)
	p.at(17, 30)
	require.Equal(t, 2, taken(v), "four runs were missed, and one is made")
	p.at(17, 31)
	require.Equal(t, 2, taken(v))

	p.set(v, `{"schedule": "45 * * * *"}`)
	p.at(18, 15)
	require.Equal(t, 2, taken(v), "another schedule counts from now")
	p.at(18, 45)
	require.Equal(t, 3, taken(v))
	p.set(v, `{}`)
	p.at(20, 0)
	require.Equal(t, 3, taken(v))
	require.Zero(t, taken(other))
	text, err := os.ReadFile(p.path)
	require.NoError(t, err)
	plans, err := p.store.DecodeSchedule(text)
	require.NoError(t, err)
	require.Empty(t, plans)
	require.Contains(t, p.events.Text("web"), "scheduled vm=web snapshot=auto-")
}

// What the schedule made is thinned out, by the time that the layer has for it; what people made stays.
func TestScheduleThins(t *testing.T) {
	p := newPlanned(t)
	v := p.vm("web", `{"schedule": "* * * * *", "keep": {"monthly": 1}}`)
	_, err := v.CreateSnapshot(layer.CreateOptions{Name: "mine"})
	require.NoError(t, err)
	p.at(12, 0)
	for minute := range 3 {
		p.at(12, 1+minute)
	}
	all := v.Snapshots()
	require.Len(t, all, 2)
	require.Equal(t, "mine", all[0].Name())
	require.Equal(t, autoName(v, p.now)[:len(all[1].Name())], all[1].Name(), "the newest")
	require.Contains(t, p.events.Text("web"), "thinned vm=web snapshots=auto-")
}

func TestScheduleSkipsAndFails(t *testing.T) {
	p := newPlanned(t)
	v := p.vm("web", `{"schedule": "* * * * *", "limit": {"snapshots": 1}}`)
	_, err := v.CreateSnapshot(layer.CreateOptions{Name: "base"})
	require.NoError(t, err)
	p.at(12, 0)
	p.at(12, 1)
	require.Contains(t, p.events.Text("web"), "schedule-failed vm=web snapshot=auto-")
	p.restart(p.store)
	require.Contains(t, p.reasons(v)[0], "was not made: VM \"web\" has 1 snapshots", "over a restart")
	p.set(v, `{"schedule": "* * * * *"}`)
	_, err = v.Preview(layer.PreviewOptions{Name: "base"})
	require.NoError(t, err)
	p.at(12, 2)
	require.Contains(t, p.events.Text("web"), "schedule-skipped vm=web")
	require.Contains(t, p.reasons(v)[0], "was not made: can't create a snapshot while")
	_, err = v.Undo(false)
	require.NoError(t, err)
	require.Equal(t, 1, taken(v))
	p.at(12, 3)
	require.Equal(t, 2, taken(v))
	require.Empty(t, p.reasons(v))
}

func TestScheduleAtOnce(t *testing.T) {
	p := newPlanned(t)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		p.vm(name, `{"schedule": "* * * * *"}`)
	}
	var now, most, runs atomic.Int32
	release := make(chan struct{})
	p.take = func(*layer.VM, fs.CreateRequest) (fs.Created, error) {
		most.Store(max(most.Load(), now.Add(1)))
		<-release
		now.Add(-1)
		runs.Add(1)
		return fs.Created{}, syscall.EBUSY
	}
	p.tick(t.Context(), p.now)
	p.tick(t.Context(), p.now.Add(time.Minute))
	require.Eventually(t, func() bool { return now.Load() == atOnce }, patience, waitStep)
	p.tick(t.Context(), p.now.Add(2*time.Minute))
	close(release)
	p.work.Wait()
	require.EqualValues(t, 6, runs.Load(), "one that runs is not started again")
	require.EqualValues(t, atOnce, most.Load())
}

// What the daemon's end kept from running is still due after it; a damaged file does not keep the daemon from starting.
func TestScheduleAcrossTheEnd(t *testing.T) {
	p := newPlanned(t)
	v := p.vm("web", `{"schedule": "0 13 * * *"}`)
	p.at(12, 30)
	ended, end := context.WithCancel(t.Context())
	end()
	for range atOnce {
		p.slots <- struct{}{} // others are before it
	}
	p.tick(ended, p.now.Add(time.Hour))
	p.work.Wait()
	require.Zero(t, taken(v))
	p.restart(p.store)
	p.at(14, 0)
	require.Equal(t, 1, taken(v))

	text, err := os.ReadFile(p.path)
	require.NoError(t, err)
	plans, err := p.store.DecodeSchedule(text)
	require.NoError(t, err)
	require.True(t, plans[v.ID()].Since.Equal(p.now))
	text[len(text)/2] ^= 1
	require.NoError(t, os.WriteFile(p.path, text, 0o600))
	p.restart(p.store)
	require.Contains(t, p.events.Text(""), "schedule-failed")
	p.at(15, 0)
	require.Equal(t, 1, taken(v), "it counts anew")
	p.at(24, 0)
	p.at(37, 0)
	require.Equal(t, 2, taken(v))
}

// A clock that was far ahead, and is right again, does not keep runs from being made until then; one that is set back a little
// does not have one made again.
func TestScheduleAfterAWrongClock(t *testing.T) {
	p := newPlanned(t)
	v := p.vm("web", `{"schedule": "0 * * * *"}`)
	p.at(12, 30)
	p.at(20, 0)
	require.Equal(t, 1, taken(v))
	p.at(13, 10)
	require.Equal(t, 1, taken(v))
	p.at(14, 0)
	require.Equal(t, 2, taken(v))
	p.at(13, 59)
	p.at(14, 0)
	require.Equal(t, 2, taken(v))
	p.at(15, 0)
	require.Equal(t, 3, taken(v))
}
