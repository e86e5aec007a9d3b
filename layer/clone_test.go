package layer

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A clone stays whole when what it was made from goes: first the snapshot, then the VM.
func TestClonesOutliveTheirOrigin(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	v, set, get := previewDisk(t, s)
	f, err := v.Lookup("root.img")
	require.NoError(t, err)
	want := bytes.Repeat([]byte("disk"), 3<<20)
	_, err = f.Write(want, 0, true)
	require.NoError(t, err)
	_, err = v.CreateSnapshot(CreateOptions{Name: "golden"})
	require.NoError(t, err)
	before := s.Stats().LayerBytes

	const clones = 20
	for i := range clones {
		c, err := v.Clone("golden", fmt.Sprintf("c%d", i))
		require.NoError(t, err)
		set(c, byte(i))
	}
	require.Equal(t, before+clones*4096, s.Stats().LayerBytes, "a block each, for what was written")
	set(v, 200)
	_, err = v.Clone("golden", "c1")
	require.ErrorContains(t, err, "already")

	_, err = v.DeleteSnapshots([]string{"golden"})
	require.NoError(t, err)
	require.NoError(t, v.Unlink("root.img"))
	require.NoError(t, s.RemoveVM("web"))
	require.NoError(t, s.Close())

	s = openStore(t, dir, Options{})
	for i := range clones {
		c, err := s.VM(fmt.Sprintf("c%d", i))
		require.NoError(t, err)
		require.EqualValues(t, i, get(c))
		f, err := c.Lookup("root.img")
		require.NoError(t, err)
		data := make([]byte, len(want))
		_, err = f.Read(data, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want[1:], data[1:]))
		_, err = c.CreateSnapshot(CreateOptions{Name: "own"})
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	report, err := Check(dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
}
