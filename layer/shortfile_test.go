package layer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A head whose data file was cut off anywhere is refused, by name, before anything is written behind that; a repair says what is
// lost, and then that is an error to read, and all else is there.
func TestShortDataFile(t *testing.T) {
	const blocks = 40
	for _, size := range []int64{0, 4 * blockSize, 30*blockSize + 1, blocks*blockSize - 1} {
		s := newStore(t, Options{})
		v := makeVM(t, s, "web")
		f := makeFile(t, v, "root", 2*blocks*blockSize)
		want := blocksOf(1, blocks)
		write(t, f, want, 0)
		commit(t, f)
		path := filepath.Join(s.data.dir, fileName(f.state.Load().head.id))
		require.NoError(t, s.Close())
		require.NoError(t, os.Truncate(path, size))
		_, err := Open(s.dir, Options{})
		require.ErrorContains(t, err, `before data of file "root" of VM "web"`)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, size, info.Size())

		require.NotEmpty(t, repaired(t, s.dir).Findings)
		s = openStore(t, s.dir, Options{})
		f = fileNamed(t, vmNamed(t, s, "web"), "root")
		write(t, f, blocksOf(2, 1), (2*blocks-1)*blockSize) // makes the file long again
		for i := range int64(blocks) {
			got := make([]byte, blockSize)
			_, err := f.Read(got, i*blockSize)
			if (i+1)*blockSize > size {
				require.Error(t, err, "block %d", i)
			} else {
				require.NoError(t, err)
				requireSame(t, want[i*blockSize:(i+1)*blockSize], got, "block %d", i)
			}
		}
		require.NoError(t, s.Close())
	}
}

// A head whose data file is missing is refused, by the same names, if the journal has something for it.
func TestMissingDataFileOfTheJournal(t *testing.T) {
	dir, want := crashedJournaled(t)
	files, err := filepath.Glob(filepath.Join(dir, layersName, "*"))
	require.NoError(t, err)
	missing := files[len(files)-1]
	require.NoError(t, os.Remove(missing))
	_, err = Open(dir, Options{})
	require.ErrorContains(t, err, `file "root" of VM "web"`)
	require.ErrorContains(t, err, "layers/"+filepath.Base(missing))
	require.ErrorContains(t, err, "`snapfs check "+dir+" --repair`")

	require.NotEmpty(t, repaired(t, dir).Findings)
	s := openStore(t, dir, Options{})
	f := fileNamed(t, vmNamed(t, s, "web"), "root")
	got := make([]byte, 2*blockSize)
	_, err = f.Read(got, 5*blockSize)
	require.NoError(t, err)
	requireSame(t, want[5*blockSize:7*blockSize], got, "from the journal")
	_, err = f.Read(make([]byte, blockSize), 0)
	require.Error(t, err, "it was in the file alone")
}
