package layer

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKeep(t *testing.T) {
	at := func(s string) time.Time {
		when, err := time.Parse("2006-01-02 15:04", s)
		require.NoError(t, err)
		return when
	}
	times := []time.Time{ // newest first
		at("2026-03-02 10:40"), at("2026-03-02 10:10"), at("2026-03-02 09:50"), // a Monday
		at("2026-03-01 23:00"), at("2026-02-28 12:00"), at("2026-02-20 12:00"), at("2026-01-31 12:00"), at("2025-12-31 12:00"),
	}
	for _, c := range []struct {
		keep KeepPolicy
		want []int
	}{
		{KeepPolicy{Undo: 3}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{KeepPolicy{Hourly: 2}, []int{0, 2}},
		{KeepPolicy{Daily: 3}, []int{0, 3, 4}},
		{KeepPolicy{Weekly: 2}, []int{0, 3}},
		{KeepPolicy{Monthly: 9}, []int{0, 4, 6, 7}},
		{KeepPolicy{Hourly: 1, Monthly: 2}, []int{0, 4}},
	} {
		var got []int
		for i, kept := range c.keep.of(times) {
			if kept {
				got = append(got, i)
			}
		}
		require.Equal(t, c.want, got, "%+v", c.keep)
	}
}

// A schedule goes on at a limit that keep holds it to.
func TestLimitOfThinned(t *testing.T) {
	s := newStore(t, Options{})
	v, _, _ := previewDisk(t, s)
	p := DefaultPolicy()
	p.Keep.Hourly, p.Limit.Snapshots = 1, 1
	require.NoError(t, v.SetPolicy(p))
	for _, name := range []string{"a", "b", "c"} {
		_, err := v.CreateSnapshot(CreateOptions{Name: name, Auto: true})
		require.NoError(t, err)
		_, err = v.ThinAuto()
		require.NoError(t, err)
		require.Len(t, v.Snapshots(), 1)
	}
	_, err := v.CreateSnapshot(CreateOptions{Name: "mine"})
	require.ErrorIs(t, err, syscall.EDQUOT)
	p.Keep.Hourly = 0
	require.NoError(t, v.SetPolicy(p))
	_, err = v.CreateSnapshot(CreateOptions{Name: "d", Auto: true})
	require.ErrorIs(t, err, syscall.EDQUOT, "all are kept")
}

func TestThinAuto(t *testing.T) {
	s := newStore(t, Options{})
	v, set, _ := previewDisk(t, s)
	for i, auto := range []bool{true, true, false, true, true} {
		set(v, byte(i))
		_, err := v.CreateSnapshot(CreateOptions{Name: string(rune('a' + i)), Auto: auto})
		require.NoError(t, err)
	}
	p := DefaultPolicy()
	p.Keep.Hourly = 1
	require.NoError(t, v.SetPolicy(p))
	gone, err := v.ThinAuto()
	require.NoError(t, err)
	require.Subset(t, []string{"d", "b", "a"}, gone)
	_, err = v.Snapshot("e")
	require.NoError(t, err, "the newest stays")
	_, err = v.Snapshot("c")
	require.NoError(t, err, "one with a name of its own stays")
}
