package layer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What resolution costs is the number of lineages on a chain: reverts that leave nothing else behind must not add any,
// and what is read must not change while records move, nor over a restart in the middle.
func TestRevertsLeaveOneLineage(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{MapMemory: 64 << 10})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	v, err := s.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	f, _, err := v.Create("root.img", 0o644, 0, 0, true)
	require.NoError(t, err)

	const size = 12 << 20 // three regions
	random := rand.New(rand.NewPCG(1, 2))
	write := func() {
		for range 10 {
			block := bytes.Repeat([]byte{byte(random.Int())}, 4096*(1+random.IntN(8)))
			_, err := f.Write(block, int64(random.IntN(size-len(block))), true)
			require.NoError(t, err)
		}
	}
	read := func(r fileReader) []byte {
		data := make([]byte, size)
		n, err := r.Read(data, 0)
		require.NoError(t, err)
		return data[:n]
	}

	want := map[string][]byte{}
	for i := range 20 {
		write()
		name := fmt.Sprintf("s%d", i)
		_, err := v.CreateSnapshot(CreateOptions{Name: name})
		require.NoError(t, err)
		want[name] = read(f)
		write()
		if i%4 == 3 {
			require.NoError(t, f.Flush(true))
		}
		_, err = v.Revert(RevertOptions{Name: name, Discard: true})
		require.NoError(t, err)
		require.True(t, bytes.Equal(want[name], read(f)))
		if i == 10 {
			require.NoError(t, s.Close())
			s, err = Open(dir, Options{})
			require.NoError(t, err)
			v, err = s.VM("web")
			require.NoError(t, err)
			f, err = v.Lookup("root.img")
			require.NoError(t, err)
		}
	}
	require.Eventually(t, func() bool {
		s.tree.RLock()
		defer s.tree.RUnlock()
		return len(s.tree.lineages) == 1
	}, 20*time.Second, 10*time.Millisecond)
	for name, data := range want {
		n, err := v.Snapshot(name)
		require.NoError(t, err)
		w, err := n.View("root.img")
		require.NoError(t, err)
		require.NoError(t, w.Open(1))
		require.True(t, bytes.Equal(data, read(w)), name)
		w.Close(1)
	}
	require.NoError(t, s.Close())
	report, err := Check(dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	s, err = Open(dir, Options{})
	require.NoError(t, err)
}
