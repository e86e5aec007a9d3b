package integration

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var kills = flag.Int("kills", 20, "how many workers TestOnce kills, and how many TestKillsUnderLargeIO")

// TestKillsUnderLargeIO kills each worker as soon as it has answered anything, while fio
// writes and reads 1 MiB at a time: most kills come while the kernel copies such a
// request from or to a worker's memory. No request fails.
func TestKillsUnderLargeIO(t *testing.T) {
	m := newMount(t)
	m.vm("web")
	const size = 64 << 20
	load := map[string][]string{m.disk("web", "disk.img", size): {"--bs=1M", "--iodepth=4", "--verify=crc32c"}}
	var written, verified int64
	var took durations
	began := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	ctx, end := context.WithCancel(ctx)
	g.Go(func() error {
		for ctx.Err() == nil {
			r, err := fioVerify(load, size)
			if err != nil {
				return err
			}
			written, verified = written+r.written, verified+r.verified
		}
		return nil
	})
	g.Go(func() error {
		defer end()
		pid, err := m.answering()
		for n := 0; n < *kills && err == nil && ctx.Err() == nil; n++ {
			killed := time.Now()
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return err
			}
			pid, err = m.answeringAfter(pid)
			took.add(time.Since(killed))
		}
		return err
	})
	require.NoError(t, g.Wait())
	st, err := m.status()
	require.NoError(t, err)
	require.Equal(t, *kills, st.Restarts)
	t.Logf("%d workers killed, %.1f a second; the next one answered after %v; %d MiB written, %d MiB verified, no error",
		*kills, float64(*kills)/time.Since(began).Seconds(), &took, written>>20, verified>>20)
}
