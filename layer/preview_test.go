package layer

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// previewDisk makes a VM with one file of a block, and functions that write and read its first byte.
func previewDisk(t *testing.T, s *Store) (v *VM, set func(*VM, byte), get func(*VM) byte) {
	v, err := s.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	_, _, err = v.Create("root.img", 0o644, 0, 0, true)
	require.NoError(t, err)
	set = func(v *VM, b byte) {
		f, err := v.Lookup("root.img")
		require.NoError(t, err)
		_, err = f.Write([]byte{b}, 0, true)
		require.NoError(t, err)
	}
	get = func(v *VM) byte {
		f, err := v.Lookup("root.img")
		require.NoError(t, err)
		var p [1]byte
		_, err = f.Read(p[:], 0)
		require.NoError(t, err)
		return p[0]
	}
	return v, set, get
}

func TestPreviewUndo(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	v, set, get := previewDisk(t, s)
	set(v, 1)
	_, err := v.CreateSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	set(v, 2)
	_, err = v.CreateSnapshot(CreateOptions{Name: "two"})
	require.NoError(t, err)
	set(v, 3)

	_, err = v.Preview(PreviewOptions{Name: "one"})
	require.NoError(t, err)
	require.EqualValues(t, 1, get(v))
	set(v, 9)
	_, _, err = v.Create("notes.txt", 0o644, 0, 0, true)
	require.NoError(t, err)
	require.Equal(t, "one", *v.Status().Preview)
	require.Len(t, v.Snapshots(), 2, "what undo brings back is not listed")

	for what, err := range map[string]error{
		"second preview": func() error { _, err := v.Preview(PreviewOptions{Name: "two"}); return err }(),
		"revert":         func() error { _, err := v.Revert(RevertOptions{Name: "two"}); return err }(),
		"create":         func() error { _, err := v.CreateSnapshot(CreateOptions{Name: "three"}); return err }(),
		"delete":         func() error { _, err := v.DeleteSnapshots([]string{"one"}); return err }(),
	} {
		require.Equal(t, syscall.EBUSY, Errno(err), what)
	}

	require.NoError(t, s.Close())
	s = openStore(t, dir, Options{})
	v, err = s.VM("web")
	require.NoError(t, err)
	require.EqualValues(t, 9, get(v), "over a restart")
	_, err = v.Undo(false)
	require.NoError(t, err)
	require.EqualValues(t, 3, get(v))
	require.Len(t, v.Files(), 1, "what was made during the preview goes")
	require.Nil(t, v.Status().Preview)
	require.Equal(t, "two", *v.Status().Head)
	_, err = v.Undo(false)
	require.Equal(t, syscall.EINVAL, Errno(err))
	require.NoError(t, s.Close())
	report, err := Check(dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
}

func TestPreviewCommit(t *testing.T) {
	s := newStore(t, Options{})
	v, set, get := previewDisk(t, s)
	set(v, 1)
	_, err := v.CreateSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	set(v, 2)
	_, err = v.Preview(PreviewOptions{Name: "one"})
	require.NoError(t, err)
	set(v, 7)
	result, err := v.CommitPreview()
	require.NoError(t, err)
	require.Contains(t, result.Kept, "before-commit-")
	require.EqualValues(t, 7, get(v))
	_, err = v.CommitPreview()
	require.Equal(t, syscall.EINVAL, Errno(err))
	_, err = v.Revert(RevertOptions{Name: result.Kept})
	require.NoError(t, err)
	require.EqualValues(t, 2, get(v))
}
