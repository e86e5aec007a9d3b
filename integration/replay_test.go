package integration

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// replay rebuilds what a recorded device may hold when the power fails, at one
// position of the log after the other.
type replay struct {
	t       testing.TB
	rng     *rand.Rand
	log     *writeLog
	medium  *os.File   // what was written before the last flush
	pending []logEntry // after it, in their order
	dropped int        // blocks of such writes that a power loss took
}

func newReplay(r *recorder, rng *rand.Rand) *replay {
	medium, err := os.OpenFile(r.blank, os.O_RDWR, 0)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { medium.Close() })
	return &replay{t: r.t, rng: rng, log: r.log, medium: medium}
}

// between lists the positions where the power may fail: from, and the end of each
// entry from there to to.
func (p *replay) between(from, to int64) []int64 {
	p.t.Helper()
	out := []int64{from}
	ahead := *p.log
	entries, err := ahead.upTo(to)
	require.NoError(p.t, err)
	for _, e := range entries {
		if e.end > from {
			out = append(out, e.end)
		}
	}
	return out
}

// image makes an image of the device whose power failed at a position, not before
// that of the last call. Half of the times all that was written is there; else,
// of what no flush came after, any blocks may be.
func (p *replay) image(position int64) (path string) {
	p.t.Helper()
	p.advance(position)
	path = filepath.Join(filepath.Dir(p.medium.Name()), "lost.img")
	run(p.t, "cp", "--sparse=always", p.medium.Name(), path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(p.t, err)
	defer f.Close()
	all := p.rng.IntN(2) == 0
	for _, e := range p.pending {
		p.apply(f, e, func() bool { return all || e.flags&entryFUA != 0 || p.rng.IntN(2) == 0 })
	}
	return path
}

// advance reads the log up to a position; what has been flushed goes to the medium.
func (p *replay) advance(position int64) {
	p.t.Helper()
	entries, err := p.log.upTo(position)
	require.NoError(p.t, err)
	p.pending = append(p.pending, entries...)
	last := len(p.pending)
	for last > 0 && p.pending[last-1].flags&entryFlush == 0 {
		last--
	}
	for _, e := range p.pending[:last] {
		p.apply(p.medium, e, func() bool { return true })
	}
	p.pending = slices.Clone(p.pending[last:])
}

// apply writes those blocks of an entry that arrive.
func (p *replay) apply(f *os.File, e logEntry, arrives func() bool) {
	p.t.Helper()
	content, err := p.log.content(e)
	require.NoError(p.t, err)
	for i, b := range slices.Collect(slices.Chunk(content, modelBlock)) {
		if !arrives() {
			p.dropped++
			continue
		}
		_, err := f.WriteAt(b, e.at+int64(i)*modelBlock)
		require.NoError(p.t, err)
	}
}
