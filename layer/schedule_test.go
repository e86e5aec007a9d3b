package layer

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plansOf are some plans; times are as JSON brings them back.
func plansOf(v *VM) map[VMID]Plan {
	at := time.Date(2026, 3, 4, 12, 30, 0, 5000, time.UTC)
	return map[VMID]Plan{v.ID(): {Schedule: "0 * * * *", Since: at}, 77: {Schedule: "@daily", Since: at, Missed: `no "agent" <at all>`}}
}

func TestScheduleFile(t *testing.T) {
	s := newStore(t, Options{})
	want := plansOf(makeVM(t, s, "web"))
	for _, plans := range []map[VMID]Plan{want, {}} {
		text, err := s.EncodeSchedule(plans)
		require.NoError(t, err)
		got, err := s.DecodeSchedule(text)
		require.NoError(t, err)
		require.Equal(t, plans, got)
		for at := range text {
			_, err := s.DecodeSchedule(text[:at])
			require.Error(t, err, "cut off at %d", at)
			for bit := range 8 {
				spoilt := bytes.Clone(text)
				spoilt[at] ^= 1 << bit
				_, err := s.DecodeSchedule(spoilt)
				require.Error(t, err, "%s", spoilt)
			}
		}
		_, err = newStore(t, Options{}).DecodeSchedule(text)
		require.Error(t, err, "another store's")
	}
}

// A version that knows no sum reads the file, and what that writes is read.
func TestScheduleFileOfAnOlderVersion(t *testing.T) {
	s := newStore(t, Options{})
	want := plansOf(makeVM(t, s, "web"))
	text, err := s.EncodeSchedule(want)
	require.NoError(t, err)
	var older map[VMID]*Plan
	require.NoError(t, json.Unmarshal(text, &older))
	require.Empty(t, older[0].Schedule, "it stays, and no VM has it")
	text, err = json.Marshal(older)
	require.NoError(t, err)
	got, err := s.DecodeSchedule(append(text, '\n'))
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = s.DecodeSchedule(text)
	require.Error(t, err, "its newline is cut off")
}

func TestCheckOfTheSchedule(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	text, err := s.EncodeSchedule(plansOf(v))
	require.NoError(t, err)
	p := v.Policy()
	p.Schedule = "0 * * * *"
	require.NoError(t, v.SetPolicy(p))
	require.NoError(t, s.Close())
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.Equal(t, scheduleName, report.Notes[0].Object)
	require.Contains(t, report.Notes[0].Text, "is missing")
	path := filepath.Join(s.dir, scheduleName)
	require.NoError(t, os.WriteFile(path, text, 0o600))
	requireSound(t, s.dir)
	flip(t, path, int64(len(text)/2))
	require.Contains(t, findingOf(t, s.dir, scheduleName), "all schedules count from the next mount on")
	require.Empty(t, repaired(t, s.dir).Findings)
	require.NoFileExists(t, path)
}
