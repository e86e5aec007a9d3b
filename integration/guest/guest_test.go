package guest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGuest has the guest do what other tests rely on, with plain files for disks.
func TestGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	disks := []string{filepath.Join(dir, "a.img"), filepath.Join(dir, "b,c.img")}
	for _, d := range disks {
		require.NoError(t, os.WriteFile(d, nil, 0o644))
		require.NoError(t, os.Truncate(d, 64<<20))
	}
	g, err := Start(ctx, Config{Dir: dir, Disks: disks})
	require.NoError(t, err)
	defer g.Kill()

	out, err := g.Run(ctx, "echo one; printf 'two, no newline'")
	require.NoError(t, err)
	require.Equal(t, "one\ntwo, no newline", out)

	out, err = g.Run(ctx, "echo said >&2\nexit 3")
	require.ErrorContains(t, err, "exit status 3: said")
	require.Equal(t, "said\n", out)

	out, err = g.Run(ctx, "head -c 300000 /dev/zero | tr '\\0' x; sleep 1000 >/dev/null 2>&1 &")
	require.NoError(t, err)
	require.Len(t, out, 300000)

	_, err = g.Run(ctx, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo kept >/mnt/f && sync && printf raw >/dev/vdb && sync")
	require.NoError(t, err)
	require.NoError(t, g.Reset(ctx))
	out, err = g.Run(ctx, "mount /dev/vda /mnt && cat /mnt/f && head -c 3 /dev/vdb")
	require.NoError(t, err)
	require.Equal(t, "kept\nraw", out)

	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	_, err = g.Run(short, "sleep 2; echo late")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	out, err = g.Run(ctx, "echo next")
	require.NoError(t, err)
	require.Equal(t, "next\n", out)

	require.NoError(t, g.Stop(ctx))
	_, err = g.Run(ctx, "true")
	require.Error(t, err)
	g.Kill()
	content, err := os.ReadFile(disks[1])
	require.NoError(t, err)
	require.Equal(t, "raw", string(content[:3]))
}
