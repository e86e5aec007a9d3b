package layer

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A guest that thaws flushes, and its verdict waits for that: so flushes go on before the verdict is there.
func TestFlushBeforeVerdict(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	v, set, _ := previewDisk(t, s)
	set(v, 1)
	f, err := v.Lookup("root.img")
	require.NoError(t, err)
	p, err := v.PrepareSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	p.Swap()
	info, err := p.Seal(func() Verdict {
		_, err := f.Write([]byte("thawed"), 0, true)
		require.NoError(t, err)
		require.NoError(t, f.Flush(true))
		require.Empty(t, v.Snapshots(), "nobody sees it before")
		return Verdict{}
	})
	require.NoError(t, err)
	require.Nil(t, info.Warning)
	require.Len(t, v.Snapshots(), 1)
}

// A crash that keeps the verdict from coming leaves the snapshot with what is certain of it.
func TestCrashBeforeVerdict(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	v, set, _ := previewDisk(t, s)
	set(v, 1)
	f, err := v.Lookup("root.img")
	require.NoError(t, err)
	require.NoError(t, f.Open(1, true))
	p, err := v.PrepareSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	p.Swap()
	crashed := filepath.Join(t.TempDir(), "crashed")
	_, err = p.Seal(func() Verdict {
		copyStore(t, s.dir, crashed)
		return Verdict{Consistency: ConsistencyFilesystem}
	})
	require.NoError(t, err)

	s = openStore(t, crashed, Options{})
	v, err = s.VM(v.Name())
	require.NoError(t, err)
	n, err := v.Snapshot("one")
	require.NoError(t, err)
	require.Equal(t, ConsistencyCrash, n.Info().Consistency)
	require.Equal(t, noVerdict, *n.Info().Warning)
}

// What is learned later makes a label better, durably, until the snapshot is gone.
func TestRelabel(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	v, set, _ := previewDisk(t, s)
	set(v, 1)
	f, err := v.Lookup("root.img")
	require.NoError(t, err)
	running, err := v.MayCreate(CreateOptions{Name: "one"})
	require.NoError(t, err)
	require.False(t, running)
	require.NoError(t, f.Open(1, true))
	running, err = v.MayCreate(CreateOptions{Name: "one"})
	require.NoError(t, err)
	require.True(t, running)
	p, err := v.PrepareSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	p.Swap()
	_, err = p.Seal(func() Verdict { return Verdict{Consistency: ConsistencyFilesystem} })
	require.NoError(t, err)
	_, err = v.MayCreate(CreateOptions{Name: "one"})
	require.Equal(t, syscall.EEXIST, Errno(err))
	info, err := p.Relabel(Verdict{Consistency: ConsistencyApplication, Warning: "a script was slow"})
	require.NoError(t, err)
	require.Equal(t, ConsistencyApplication, info.Consistency)

	f.Close(1)
	require.NoError(t, s.Close())
	s = openStore(t, dir, Options{})
	v, err = s.VM(v.Name())
	require.NoError(t, err)
	n, err := v.Snapshot("one")
	require.NoError(t, err)
	require.Equal(t, ConsistencyApplication, n.Info().Consistency)
	require.Equal(t, "a script was slow", *n.Info().Warning)

	p, err = v.PrepareSnapshot(CreateOptions{Name: "two"})
	require.NoError(t, err)
	p.Swap()
	_, err = p.Seal(nil)
	require.NoError(t, err)
	_, err = v.DeleteSnapshots([]string{"two"})
	require.NoError(t, err)
	_, err = p.Relabel(Verdict{Warning: "late"})
	require.Equal(t, syscall.ENOENT, Errno(err))
}
