package layer

// Restoring the index of a store with memory images: what the backup has is there, and those that the backup
// does not know, or knows as nobody's, are kept.

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRestoreWithMemory(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", blockSize)
	save := func(name string, seed uint64) {
		t.Helper()
		image, err := s.NewImage(1 << 20)
		require.NoError(t, err)
		_, err = image.File().Write(pattern(seed, 1<<20))
		require.NoError(t, err)
		if name == "" {
			return // it is being saved
		}
		_, err = v.CreateSnapshot(CreateOptions{Name: name, Image: image})
		require.NoError(t, err)
		settle(t, s) // it is packed
	}
	save("s", 1)
	save("gone", 2)
	save("", 3)
	require.NoError(t, s.backUp(time.Now()))
	save("later", 4)
	drop(t, v, "gone")
	settle(t, s)
	require.NoError(t, s.Close())
	before := filesIn(t, filepath.Join(s.dir, imagesName))
	require.Len(t, before, 3)

	s, report := closeAndRestore(t, s)
	require.Equal(t, 2, report.Unknown, "that of the later snapshot, and the one that nobody has in the backup")
	kept := filesIn(t, filepath.Join(s.dir, report.Aside, imagesName))
	require.Len(t, kept, 2)
	for name := range kept {
		require.True(t, before[name])
	}
	v = vmNamed(t, s, "web")
	n, err := v.Snapshot("s")
	require.NoError(t, err)
	memory, err := n.Memory()
	require.NoError(t, err)
	require.NoError(t, memory.Open(viewHandle))
	p := make([]byte, 1<<20)
	_, err = memory.Read(p, 0)
	require.NoError(t, err)
	requireSame(t, pattern(1, 1<<20), p, "the memory")
	memory.Close(viewHandle)
	n, err = v.Snapshot("gone")
	require.NoError(t, err)
	require.Nil(t, n.Info().Memory)
	require.Contains(t, *n.Info().Warning, lostMemory)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}
