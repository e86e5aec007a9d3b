package layer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGrown(t *testing.T) {
	at := func(minutes int, held int64) heldAt { return heldAt{At: int64(minutes) * 60, Held: held} }
	since := func(minutes int) time.Time { return time.Unix(int64(minutes)*60, 0) }
	day := []heldAt{at(0, 0), at(30, 100), at(60, 40), at(90, 70), at(120, 70)}
	for name, test := range map[string]struct {
		samples []heldAt
		since   time.Time
		bytes   int64
		over    time.Duration
	}{
		"nothing known":                  {nil, since(0), 0, 0},
		"just made":                      {day[:1], since(0), 0, 0},
		"what was freed does not count":  {day, since(0), 130, 2 * time.Hour},
		"from the sample before":         {day, since(59), 30, 90 * time.Minute},
		"from that sample on":            {day, since(60), 30, time.Hour},
		"from the first one if too late": {day[2:], since(0), 30, time.Hour},
		"nothing":                        {day, since(95), 0, 30 * time.Minute},
	} {
		bytes, over := grown(test.samples, test.since)
		require.Equal(t, test.bytes, bytes, name)
		require.Equal(t, test.over, over, name)
	}
	require.EqualValues(t, 65, perHour(130, 2*time.Hour))
	require.EqualValues(t, 130, perHour(130, time.Minute), "that is what came in the last hour")
}

func TestTrimmedSamples(t *testing.T) {
	now := time.Unix(1<<30, 0)
	var samples []heldAt
	for hours := -30; hours <= 1; hours++ {
		samples = append(samples, newHeldAt(now.Add(time.Duration(hours)*time.Hour), int64(hours)))
	}
	kept := trimmed(samples, now)
	require.Len(t, kept, 25)
	require.EqualValues(t, -24, kept[0].Held)
	require.Zero(t, kept[24].Held, "none from the future")
	require.Equal(t, kept, trimmed(kept, now))
}

func TestFullAt(t *testing.T) {
	const day = 24 * time.Hour
	require.Nil(t, fullAt(1<<40, 0, day))
	require.Nil(t, fullAt(1<<60, 1, day), "not in our time")
	require.NotNil(t, fullAt(1<<30, 1<<20, day))
	require.Nil(t, fullAt(1<<30, 1<<20, 10*time.Minute), "1,024 hours ahead, from ten minutes")
	before := time.Now()
	at, now := *fullAt(3<<30, 2<<30, time.Hour), *fullAt(0, 1, 0)
	require.WithinRange(t, at, before.Add(90*time.Minute-time.Second), time.Now().Add(90*time.Minute))
	require.WithinRange(t, now, before.Add(-time.Second), time.Now())
}

// Growth counts what came since a VM was made or over the last day, also across restarts, and what is behind a preview.
func TestGrowth(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	idle, v := makeVM(t, s, "idle"), makeVM(t, s, "web")
	f := makeFile(t, v, "root", 100*blockSize)
	write(t, f, blocksOf(1, 40), 0)
	snapshot(t, v, "one")
	write(t, f, blocksOf(2, 10), 0)
	require.EqualValues(t, 50*blockSize, v.Status().Allocated)
	require.EqualValues(t, 50*blockSize, v.Status().GrowthPerHour)
	require.Zero(t, idle.Status().GrowthPerHour)
	require.Nil(t, idle.Status().FullAt)
	require.EqualValues(t, 50*blockSize, s.Stats().GrowthPerHour)
	require.Equal(t, "web", s.Stats().Fastest)

	_, err := v.Preview(PreviewOptions{Name: "one"})
	require.NoError(t, err)
	write(t, f, blocksOf(3, 5), 0)
	afresh := func() int64 {
		s.heldBytes = paced[map[*VM]int64]{}
		return v.Status().Allocated
	}
	require.EqualValues(t, 55*blockSize, afresh(), "with what undo brings back")
	_, err = v.Undo(false)
	require.NoError(t, err)
	settle(t, s)
	require.EqualValues(t, 50*blockSize, afresh())

	later := time.Now().Add(time.Hour)
	require.NoError(t, s.takeSamples(later))
	flush(t, f)
	s = reopen(t, s)
	v = vmNamed(t, s, "web")
	f = fileNamed(t, v, "root")
	samples := v.samples
	require.Len(t, samples, 2)
	require.NoError(t, s.takeSamples(later.Add(time.Minute)))
	require.Equal(t, samples, v.samples, "none is due")
	write(t, f, blocksOf(3, 10), 50*blockSize)
	bytes, over := v.growth(later.Add(-growthWindow), later.Add(time.Hour), afresh())
	require.EqualValues(t, 60*blockSize, bytes)
	require.GreaterOrEqual(t, over, 2*time.Hour)
	bytes, _ = v.growth(later, later.Add(time.Hour), afresh())
	require.EqualValues(t, 10*blockSize, bytes, "of late")
	drop(t, v, "one")
	settle(t, s)
	require.NoError(t, v.Unlink("root"))
	require.NoError(t, s.RemoveVM("web"))
	require.NoError(t, s.takeSamples(later.Add(24*time.Hour)))
	s = reopen(t, s)
	require.Len(t, s.VMs(), 1)
}

// The operator of a full store hears who fills it.
func TestFullStoreNamesTheFastest(t *testing.T) {
	var told []any
	s := newStore(t, Options{Event: func(_, event string, attrs ...any) {
		if event == "space-low" {
			told = attrs
		}
	}})
	write(t, makeFile(t, makeVM(t, s, "web"), "root", 100*blockSize), blocksOf(1, 4), 0)
	f := makeFile(t, makeVM(t, s, "db"), "root", 100*blockSize)
	write(t, f, blocksOf(1, 5), 0)
	s.space.reserve = 1 << 60
	s.space.due.Store(0)
	_, err := f.Write(blocksOf(1, 1), 10*blockSize, true)
	require.Error(t, err)
	require.Equal(t, []any{"fastest", "db", "growth_per_hour", int64(5 * blockSize)}, told[4:])
}

// A list says what each snapshot alone holds: what is overwritten since, and what is not shared with a clone.
func TestUsage(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 100*blockSize)
	usage := func() (list [][2]int64) {
		t.Helper()
		require.NoError(t, f.Commit(true))
		settle(t, s)
		v.usage = paced[map[SnapshotID]int64]{}
		for _, info := range v.List(time.Now().Add(time.Minute)) {
			list = append(list, [2]int64{*info.Unique / blockSize, *info.Shared / blockSize})
		}
		return list
	}
	write(t, f, blocksOf(1, 40), 0)
	snapshot(t, v, "one")
	require.Equal(t, [][2]int64{{0, 40}}, usage(), "the current state shows all of it")
	write(t, f, blocksOf(2, 10), 0)
	require.Equal(t, [][2]int64{{10, 30}}, usage())
	snapshot(t, v, "two")
	write(t, f, blocksOf(3, 15), 0)
	require.Equal(t, [][2]int64{{10, 30}, {10, 30}}, usage(), "blocks 10 to 14 are in both, deleting either frees none")
	_, err := v.Clone("one", "copy")
	require.NoError(t, err)
	require.Equal(t, [][2]int64{{0, 40}, {10, 30}}, usage())
	drop(t, v, "one")
	require.Equal(t, [][2]int64{{10, 30}}, usage())
	require.Nil(t, v.List(time.Now())[0].Memory)
}
