package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWorkersKilledOnFullDisk kills one worker after another while others have the host's file system filled to the last
// byte, and take whatever is given up: the store has kept enough room to be opened each time.
func TestWorkersKilledOnFullDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t, 700<<20)
	m := h.newMount()
	m.vm("web")
	path := m.disk("web", "disk.img", 8<<20)
	writeSynced(t, path, 8<<20)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	ballast := func() int64 {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(m.store, "ballast"), &st))
		return st.Blocks * 512
	}
	const made = 128 << 20
	require.Eventually(t, func() bool { return ballast() >= made }, patience, 10*time.Millisecond)

	const kills = 10
	pid, err := m.answering()
	require.NoError(t, err)
	for i := range kills {
		h.fillUp()
		word := []byte{byte('a' + i)}
		_, err := f.WriteAt(word, int64(i))
		require.NoError(t, err)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		got := make([]byte, 1)
		_, err = f.ReadAt(got, int64(i))
		require.NoError(t, err)
		require.Equal(t, word, got)
		pid, err = m.answeringAfter(pid)
		require.NoError(t, err)
		t.Logf("after kill %d the ballast has %d MiB", i, ballast()>>20)
	}
	require.Greater(t, ballast(), int64(made/2))
	st, err := m.status()
	require.NoError(t, err)
	require.Equal(t, kills, st.Restarts)
	require.NoError(t, os.Remove(h.others()))
	require.NoError(t, f.Sync())
	require.Equal(t, "abcdefghij", string(readFile(t, path)[:kills]))
}

// fillUp has others take all that root can.
func (h *host) fillUp() {
	h.t.Helper()
	f, err := os.OpenFile(h.others(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	require.NoError(h.t, err)
	defer f.Close()
	for _, size := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		require.ErrorIs(h.t, err, unix.ENOSPC)
	}
}
