package layer

// Thinning: which of the snapshots that the schedule made stay. The rule is that of restic's forget: of each of the last
// so many hours, days, weeks and months that have any, the newest.

import (
	"slices"
	"time"
)

// ThinAuto deletes what the schedule made and the policy does not keep. Snapshots with open files stay until later, and
// those with a name of their own for ever. It returns the names of those that went.
func (v *VM) ThinAuto() ([]string, error) {
	v.op.Lock()
	defer v.op.Unlock()
	auto, times := v.autoSnapshots()
	var gone []string
	for i, kept := range v.Policy().Keep.of(times) {
		n := auto[i]
		if kept || v.refusePreviewed(auto[i:i+1]) != nil || !n.tryRefuseOpens() {
			continue
		}
		if err := v.dropSnapshots(auto[i : i+1]); err != nil {
			v.allowOpens(auto[i : i+1])
			return gone, err
		}
		gone = append(gone, n.snapshotRecord.Name)
	}
	return gone, nil
}

// autoSnapshots are those that the schedule made, newest first, and when. The caller holds VM.op.
func (v *VM) autoSnapshots() (auto []*Snapshot, times []time.Time) {
	for _, n := range slices.Backward(v.Snapshots()) {
		if n.Auto {
			auto = append(auto, n)
			times = append(times, n.Created().Local())
		}
	}
	return auto, times
}

// displaced are the snapshots that the policy does not keep once the schedule has made another one now.
func (v *VM) displaced() []*Snapshot {
	auto, times := v.autoSnapshots()
	var going []*Snapshot
	for i, kept := range v.Policy().Keep.of(append([]time.Time{time.Now()}, times...)) {
		if i > 0 && !kept {
			going = append(going, auto[i-1])
		}
	}
	return going
}

// of says which of some times, newest first, are kept. Without any rule all are.
func (k KeepPolicy) of(times []time.Time) []bool {
	kept := make([]bool, len(times))
	rules := []struct {
		count  int
		period func(time.Time) [2]int
	}{
		{k.Hourly, func(t time.Time) [2]int { return [2]int{t.Year()*366 + t.YearDay(), t.Hour()} }},
		{k.Daily, func(t time.Time) [2]int { return [2]int{t.Year(), t.YearDay()} }},
		{k.Weekly, func(t time.Time) [2]int { year, week := t.ISOWeek(); return [2]int{year, week} }},
		{k.Monthly, func(t time.Time) [2]int { return [2]int{t.Year(), int(t.Month())} }},
	}
	any := false
	for _, rule := range rules {
		any = any || rule.count > 0
		var last [2]int
		for i, t := range times {
			if period := rule.period(t); rule.count > 0 && period != last {
				kept[i], last = true, period
				rule.count--
			}
		}
	}
	for i := range kept {
		kept[i] = kept[i] || !any
	}
	return kept
}
