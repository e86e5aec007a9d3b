package integration

// How much memory and how many files a process has, over time.

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// footprint is what a process takes at some moment.
type footprint struct {
	anon, shared int64 // bytes: its own, and of memory shared with others
	files        int64 // open
	mapped       int64 // bytes of files, its program among them
}

func (f footprint) String() string {
	if f == (footprint{}) {
		return "not looked at"
	}
	return fmt.Sprintf("%d MiB + %d MiB shared, %d files", f.anon>>20, f.shared>>20, f.files)
}

// take looks at a process; zeros if it is gone.
func take(pid int) (f footprint) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "RssAnon":
			f.anon = kib << 10
		case "RssShmem":
			f.shared = kib << 10
		case "RssFile":
			f.mapped = kib << 10
		}
	}
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	f.files = int64(len(fds))
	return f
}

// notAbove says what has grown since an earlier look, beyond what varies anyway.
func (f footprint) notAbove(first footprint) error {
	within := func(now, then, slack int64) bool { return now <= then+then/4+slack }
	if within(f.anon, first.anon, 16<<20) && within(f.shared, first.shared, 4<<20) && within(f.files, first.files, 64) {
		return nil
	}
	return fmt.Errorf("%v have become %v", first, f)
}

// record is footprints over time.
type record struct {
	at []time.Duration
	of []footprint
}

// add looks at a process, unless it is gone.
func (r *record) add(at time.Duration, pid int) {
	if f := take(pid); f.anon > 0 {
		r.at, r.of = append(r.at, at), append(r.of, f)
	}
}

// ends are typical footprints at the beginning of a span of time, when all has got
// under way, and at its end.
func (r *record) ends(from, to time.Duration) (first, last footprint) {
	part := (to - from) / 6
	return r.median(from+part, from+2*part), r.median(to-part, to)
}

func (r *record) median(from, to time.Duration) footprint {
	var anon, shared, files []int64
	for i, f := range r.of {
		if r.at[i] >= from && r.at[i] <= to {
			anon, shared, files = append(anon, f.anon), append(shared, f.shared), append(files, f.files)
		}
	}
	return footprint{anon: middle(anon), shared: middle(shared), files: middle(files)}
}

// middle is the median, 0 of nothing.
func middle[V int64 | time.Duration](values []V) V {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// durations are how long something took, time and again.
type durations struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *durations) add(t time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, t)
}

func (d *durations) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) == 0 {
		return "never"
	}
	sorted := slices.Sorted(slices.Values(d.all))
	return fmt.Sprintf("%v in the middle, %v at most", sorted[len(sorted)/2].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond))
}

// mountStatus is a part of what `status` says of a mount.
type mountStatus struct {
	WorkerPID     int    `json:"worker_pid"`
	Restarts      int    `json:"restarts"`
	LastExit      string `json:"last_exit"`
	Layers        int    `json:"layers"`
	RetiredLayers int    `json:"retired_layers"`
	LayerBytes    int64  `json:"layer_bytes"`
	ReclaimBytes  int64  `json:"reclaim_bytes"`
}

func (m *mount) status() (st mountStatus, err error) {
	text, err := os.ReadFile(m.path(".snapshots", "status"))
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(text, &st)
}

// answering is the worker that has just answered.
func (m *mount) answering() (pid int, err error) {
	st, err := m.status()
	return st.WorkerPID, err
}

// answeringAfter waits for a worker after that one to answer: it may itself for a
// moment after it was killed.
func (m *mount) answeringAfter(pid int) (next int, err error) {
	for next = pid; next == pid && err == nil; {
		next, err = m.answering()
	}
	return next, err
}
