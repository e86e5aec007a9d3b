package layer

// Growth: how many bytes the layers of each VM hold, and how that rises with time. Now and then it is written down, so
// that a start knows what was before; what was freed in between does not count against what was written.

import (
	"slices"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	growthWindow = 24 * time.Hour   // what growth is an average of: a day has busy and quiet hours
	growthRecent = time.Hour        // what counts for who fills the store just now
	growthStep   = 30 * time.Minute // between two samples
	growthLook   = time.Minute      // how often samples are looked after

	// farAhead is where forecasts end; and they reach no further than so many times as long as growth was watched.
	farAhead   = 10 * 365 * 24 * time.Hour
	foreseeing = 100
)

// growthRecord is what the catalog keeps of a VM's growth, oldest first.
type growthRecord struct {
	Samples []heldAt `json:"samples"`
}

// heldAt is how many bytes a VM's layers held at a time, in seconds since 1970.
type heldAt struct {
	At   int64 `json:"at"`
	Held int64 `json:"held"`
}

func newHeldAt(at time.Time, held int64) heldAt { return heldAt{At: at.Unix(), Held: held} }

// grown is by how much samples rise from since on, or from the first one after that, and in which time.
func grown(samples []heldAt, since time.Time) (bytes int64, over time.Duration) {
	from := 0
	for i, s := range samples {
		if s.At <= since.Unix() {
			from = i
		}
	}
	for i := from + 1; i < len(samples); i++ {
		bytes += max(0, samples[i].Held-samples[i-1].Held)
	}
	if len(samples) > 0 {
		over = time.Duration(samples[len(samples)-1].At-samples[from].At) * time.Second
	}
	return bytes, over
}

// perHour is a rate, in bytes. What came in less than an hour is what came in one.
func perHour(bytes int64, over time.Duration) int64 {
	return int64(float64(bytes) / max(1, over.Hours()))
}

// trimmed are the samples that matter at now, and no others: one from before the window is its beginning.
func trimmed(samples []heldAt, now time.Time) []heldAt {
	samples = slices.DeleteFunc(samples, func(s heldAt) bool { return s.At > now.Unix() }) // the clock was set back
	for len(samples) > 1 && samples[1].At <= now.Add(-growthWindow).Unix() {
		samples = samples[1:]
	}
	return samples
}

// held is how many bytes the layers of each VM hold, retired ones that are still needed included.
func (s *Store) held() map[*VM]int64 {
	held, _ := s.heldBytes.get(time.Minute, s.work.start, func() (map[*VM]int64, error) { return s.tree.held(), nil })
	return held
}

func (t *tree) held() map[*VM]int64 {
	t.RLock()
	defer t.RUnlock()
	of := make(map[FileID]*VM)
	t.eachLocked(func(l *layer) {
		switch {
		case l.owner != nil:
			of[l.file] = l.owner.vm
		case l.snap != nil:
			of[l.file] = l.snap.vm
		}
	})
	held := make(map[*VM]int64)
	t.eachLocked(func(l *layer) {
		if v := of[l.file]; v != nil {
			held[v] += l.blocks.Load() * blockSize
		}
	})
	return held
}

func (t *tree) eachLocked(fn func(*layer)) {
	for _, n := range t.lineages {
		for _, l := range n.layers {
			fn(l)
		}
	}
}

// growth is how much the VM has grown since a time, and in which time, given what its layers hold now.
func (v *VM) growth(since, now time.Time, held int64) (bytes int64, over time.Duration) {
	v.mu.RLock()
	samples := slices.Clone(v.samples)
	v.mu.RUnlock()
	return grown(append(samples, newHeldAt(now, held)), since)
}

// growthPerHour is the VM's over the last day, or since it was made, in bytes, and over how long that is.
func (v *VM) growthPerHour(held int64) (rate int64, over time.Duration) {
	now := time.Now()
	bytes, over := v.growth(now.Add(-growthWindow), now, held)
	return perHour(bytes, over), over
}

// fastest is the VM that has grown the most of late, nil if none has, and by how many bytes an hour.
func (s *Store) fastest() (fastest *VM, rate int64) {
	held, now := s.held(), time.Now()
	for _, v := range s.VMs() {
		if r := perHour(v.growth(now.Add(-growthRecent), now, held[v])); r > rate {
			fastest, rate = v, r
		}
	}
	return fastest, rate
}

// blame names the fastest growing VM, for the event of a full store.
func (s *Store) blame() []any {
	v, rate := s.fastest()
	if v == nil {
		return nil
	}
	return []any{"fastest", v.Name(), "growth_per_hour", rate}
}

// fullAt is when so much is taken at a rate an hour that was measured over some time, nil if that is far ahead.
func fullAt(avail, rate int64, over time.Duration) *time.Time {
	if rate <= 0 || float64(avail)/float64(rate) > min(farAhead, foreseeing*over).Hours() {
		return nil
	}
	at := time.Now().Add(time.Duration(float64(avail) / float64(rate) * float64(time.Hour))).UTC().Truncate(time.Second)
	return &at
}

// sampleGrowth takes samples until the store is closed.
func (s *Store) sampleGrowth() {
	tick := time.NewTicker(growthLook)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			if err := s.takeSamples(now); err != nil {
				s.opts.Event("", "growth-failed", "error", err.Error())
			}
		}
	}
}

// samplesAtOnce are those of one transaction.
const samplesAtOnce = 100

// takeSamples takes those that are due, and writes them down.
func (s *Store) takeSamples(now time.Time) error {
	held := s.held()
	for some := range slices.Chunk(s.VMs(), samplesAtOnce) {
		due := make(map[*VM]growthRecord)
		for _, v := range some {
			if v.sample(now, held[v]) {
				due[v] = growthRecord{Samples: v.samples} // by this goroutine alone
			}
		}
		if len(due) == 0 {
			continue
		}
		err := s.update(func(tx *blockmap.Tx) error {
			for v, record := range due {
				if value, err := tx.Get(catalogKey(tableVM, v.id)); err != nil || value == nil {
					continue // removed meanwhile
				}
				put(tx, catalogKey(tableGrowth, v.id), record)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sample takes one, if it is due.
func (v *VM) sample(now time.Time, held int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.samples)
	if n > 0 && v.samples[n-1].At > now.Add(-growthStep).Unix() && v.samples[n-1].At <= now.Unix() {
		return false
	}
	v.samples = append(trimmed(slices.Clone(v.samples), now), newHeldAt(now, held))
	return true
}
