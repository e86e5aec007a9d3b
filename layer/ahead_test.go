package layer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A snapshot flushes ahead what somebody would wait for behind its instant: for a guest that is held still, one that flushes, or one that
// has written or discarded much. Nothing of others. Either way the snapshot is whole.
func TestFlushAhead(t *testing.T) {
	const blocks = 5000
	for name, c := range map[string]struct {
		held, flushes   bool
		write, discards int
		ahead           bool
	}{
		"a guest that never flushes":              {write: 100},
		"one that is held still":                  {write: 100, held: true, ahead: true},
		"one that flushes another of its disks":   {write: 100, flushes: true, ahead: true},
		"one that has written much":               {write: aheadBytes / blockSize, ahead: true},
		"one that has discarded all over a disk":  {discards: aheadRegions, ahead: true},
		"one that has discarded in a few regions": {discards: aheadRegions / 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			v := makeVM(t, s, "web")
			log := makeFile(t, v, "log", blockSize)
			f := makeFile(t, v, "root", 2*aheadRegions*windowSize)
			write(t, f, blocksOf(1, blocks), 0)
			for i := range c.discards {
				write(t, f, blocksOf(1, 1), int64(i+10)*windowSize)
			}
			snapshot(t, v, "below")
			want := blocksOf(1, blocks)
			copy(want, blocksOf(2, c.write))
			longAfterFlushes(v)
			if c.write > 0 {
				write(t, f, blocksOf(2, c.write), 0)
			}
			for i := range c.discards {
				require.NoError(t, f.Discard(int64(i+10)*windowSize, blockSize))
			}
			require.True(t, f.pending())

			if c.flushes {
				flush(t, log)
			}
			p, err := v.PrepareSnapshot(CreateOptions{Name: "one", Held: c.held})
			require.NoError(t, err)
			require.Equal(t, c.ahead, !f.pending())
			p.Swap()
			write(t, f, blocksOf(3, 1), 0)
			_, err = p.Seal(nil)
			require.NoError(t, err)
			n, err := v.Snapshot("one")
			require.NoError(t, err)
			got := make([]byte, len(want))
			w, err := n.View("root")
			require.NoError(t, err)
			require.NoError(t, w.Open(viewHandle))
			defer w.Close(viewHandle)
			_, err = tryOrWait(w, got, 0)
			require.NoError(t, err)
			requireSame(t, want, got, "the snapshot")
		})
	}
}
