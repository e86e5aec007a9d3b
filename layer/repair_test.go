package layer

// Repair: what check finds is set right or put aside, what is lost is told and stays EIO, and a second repair has nothing to
// do.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// repaired repairs a closed store twice: the second time there is nothing to do. Check finds what stays, too.
func repaired(t *testing.T, dir string) Report {
	t.Helper()
	first, err := repairAndTell(dir)
	require.NoError(t, err)
	second, err := repairAndTell(dir)
	require.NoError(t, err)
	require.Empty(t, second.Repaired)
	require.Empty(t, second.Lost, "told once")
	require.Equal(t, first.Findings, second.Findings)
	check, err := Check(dir)
	require.NoError(t, err)
	require.Equal(t, first.Findings, check.Findings)
	return first
}

func TestRepairOfASoundStore(t *testing.T) {
	dir := sample(t)
	report := repaired(t, dir)
	require.Empty(t, report.Findings)
	require.Empty(t, report.Repaired)
	require.NoDirExists(t, filepath.Join(dir, quarantineName))
}

func TestRepairPutsStraysAside(t *testing.T) {
	dir := sample(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, imagesName), 0o700))
	strays := []string{"layers/0000000000abcdef", "layers/notes.txt", "memory/00000000000000ff.zst", "memory/x"}
	for _, name := range strays {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sums/0000000000abcdef"), []byte("sums"), 0o600))
	report := repaired(t, dir)
	require.Empty(t, report.Findings)
	require.Len(t, report.Repaired, len(strays))
	runs, err := filepath.Glob(filepath.Join(dir, quarantineName, "*"))
	require.NoError(t, err)
	require.Len(t, runs, 1)
	for _, name := range strays {
		data, err := os.ReadFile(filepath.Join(runs[0], name))
		require.NoError(t, err)
		require.Equal(t, name, string(data))
		require.NoFileExists(t, filepath.Join(dir, name))
	}
	require.FileExists(t, filepath.Join(runs[0], "sums/0000000000abcdef"))
}

// Every data file is missing, cut off, full of holes, or something else in turn: what is gone is told and EIO, and what is
// not reads as before.
func TestRepairOfLostData(t *testing.T) {
	dir := sample(t)
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	whole := contents(t, s)
	require.NoError(t, s.Close())
	for _, how := range []string{"missing", "empty", "hole", "directory", "link"} {
		for name := range filesIn(t, filepath.Join(dir, layersName)) {
			if !oneIn(6) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, layersName, name))
			require.NoError(t, err)
			if len(data) == 0 && (how == "empty" || how == "hole") {
				continue // it is the head's, which nobody wrote to
			}
			t.Run(how+" "+name, func(t *testing.T) {
				dir := copied(t, dir)
				path := filepath.Join(dir, layersName, name)
				spoilData(t, path, how)
				report := repaired(t, dir)
				for _, f := range report.Findings {
					require.Contains(t, f.Text, "has lost")
					require.True(t, strings.HasPrefix(f.Object, "web"), f.Object)
				}
				require.NotEmpty(t, report.Repaired)
				s := openStore(t, dir, Options{})
				lost := requireWhole(t, s, whole)
				told := make(map[string]bool)
				for _, f := range report.Findings {
					told[f.Object] = true
				}
				require.Equal(t, told, lost)
				for _, n := range vmNamed(t, s, "web").Snapshots() {
					for _, e := range n.Files {
						if lost["web@"+n.Name()+"/"+e.Name] {
							require.NotNil(t, n.Info().Warning)
						}
					}
				}
				// The current state is whole again once it is written.
				f := fileNamed(t, vmNamed(t, s, "web"), "root")
				write(t, f, blocksOf(7, 8), 0)
				require.NoError(t, s.Close())
				for _, f := range repaired(t, dir).Findings {
					require.Contains(t, f.Object, "@")
				}
			})
		}
	}
}

func spoilData(t *testing.T, path, how string) {
	t.Helper()
	if how == "hole" {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, blockSize, blockSize))
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 7*blockSize, blockSize))
		return
	}
	require.NoError(t, os.Remove(path))
	switch how {
	case "empty":
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	case "directory":
		require.NoError(t, os.Mkdir(path, 0o700))
	case "link":
		require.NoError(t, os.Symlink("/etc/hostname", path))
	}
}

func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "store")
	copyTree(t, dir, to)
	return to
}

// contents are the blocks of all files and snapshots, by name.
func contents(t *testing.T, s *Store) map[string][][]byte {
	t.Helper()
	all := make(map[string][][]byte)
	v := vmNamed(t, s, "web")
	for _, e := range v.Files() {
		all["web/"+e.Name] = readBlockwise(t, s, "web/"+e.Name)
	}
	for _, n := range v.Snapshots() {
		for _, e := range n.Files {
			object := fmt.Sprintf("web@%s/%s", n.Name(), e.Name)
			all[object] = readBlockwise(t, s, object)
		}
	}
	return all
}

// readBlockwise reads VM/FILE or VM@SNAPSHOT/FILE; nil for what is EIO.
func readBlockwise(t *testing.T, s *Store, object string) (blocks [][]byte) {
	t.Helper()
	dir, name, _ := strings.Cut(object, "/")
	vm, snap, viewed := strings.Cut(dir, "@")
	v := vmNamed(t, s, vm)
	var from fileReader
	var size int64
	if viewed {
		n, err := v.Snapshot(snap)
		require.NoError(t, err)
		w, err := n.View(name)
		require.NoError(t, err)
		require.NoError(t, w.Open(viewHandle))
		defer w.Close(viewHandle)
		from, size = w, w.Attr().Size
	} else {
		f := fileNamed(t, v, name)
		from, size = f, f.Attr().Size
	}
	for off := int64(0); off < size; off += blockSize {
		p := make([]byte, blockSize)
		n, err := from.Read(p, off)
		if err != nil {
			require.Equal(t, syscall.EIO, Errno(err))
			p = nil
			n = 0
		}
		blocks = append(blocks, p[:n])
	}
	return blocks
}

func TestRepairOfCounts(t *testing.T) {
	dir := sample(t)
	spoilIndex(t, dir, func(tx *blockmap.Tx) error {
		err := scan(tx, tableLayer, func(id uint64, r layerRecord) error {
			r.Blocks += 3
			put(tx, catalogKey(tableLayer, id), r)
			return nil
		})
		if err != nil {
			return err
		}
		id, lin := layerWithBlocks(t, tx)
		r, err := tx.Record(lin, 0, id)
		require.NoError(t, err)
		require.False(t, r.Empty())
		tx.Delete(regionKey(tableTouched, id, 0))
		return scan(tx, tableFile, func(id uint64, r fileRecord) error {
			r.Allocated = 1000
			put(tx, catalogKey(tableFile, id), r)
			return nil
		})
	})
	report := repaired(t, dir)
	require.Empty(t, report.Findings)
	require.NotEmpty(t, report.Repaired)
	sound := sample(t)
	s, want := openStore(t, dir, Options{}), openStore(t, sound, Options{})
	for _, e := range vmNamed(t, s, "web").Files() {
		require.Equal(t, fileNamed(t, vmNamed(t, want, "web"), e.Name).Attr().Blocks, e.File.Attr().Blocks, e.Name)
	}
	require.Equal(t, want.Stats().LayerBytes, s.Stats().LayerBytes)
}

func spoilIndex(t *testing.T, dir string, fn func(*blockmap.Tx) error) {
	t.Helper()
	index, err := blockmap.Open(filepath.Join(dir, indexName), blockmap.Options{})
	require.NoError(t, err)
	require.NoError(t, index.Update(fn))
	require.NoError(t, index.Close())
}

func TestRepairOfLostChecksums(t *testing.T) {
	every := sumsEvery
	t.Cleanup(func() { sumsEvery = every })
	sumsEvery = time.Millisecond
	s := newStore(t, Options{})
	sealed(t, s)
	summed(t, s)
	require.NoError(t, s.Close())
	for name := range filesIn(t, filepath.Join(s.dir, sumsName)) {
		require.NoError(t, os.Remove(filepath.Join(s.dir, sumsName, name)))
	}
	report := repaired(t, s.dir)
	require.Empty(t, report.Findings)
	require.NotEmpty(t, report.Repaired)
	s = openStore(t, s.dir, Options{Verify: true})
	summed(t, s)
	scrub, err := s.Scrub()
	require.NoError(t, err)
	require.Empty(t, scrub.Findings)
	require.NotZero(t, scrub.Bytes)
}

func TestRepairOfTheCounter(t *testing.T) {
	for _, how := range []string{"missing", "damaged"} {
		t.Run(how, func(t *testing.T) {
			dir := sample(t)
			path := filepath.Join(dir, commitsName)
			if how == "missing" {
				require.NoError(t, os.Remove(path))
			} else {
				require.NoError(t, os.WriteFile(path, make([]byte, 5000), 0o600))
			}
			_, err := Open(dir, Options{})
			require.ErrorContains(t, err, "`snapfs check "+dir+" --repair`")
			check, err := Check(dir)
			require.NoError(t, err)
			require.Len(t, check.Findings, 1)
			report := repaired(t, dir)
			require.Empty(t, report.Findings)
			require.Len(t, report.Repaired, 1)
			for range 2 {
				s, err := Open(dir, Options{})
				require.NoError(t, err)
				require.NoError(t, s.Close())
			}
		})
	}
}

func TestRepairOfFormat(t *testing.T) {
	for _, content := range []string{"", "{\"store\":", "something else\n", `{"store":"snapfs","vdrsion":2}`, `{"store":"snapfs","version":-2}`} {
		dir := sample(t)
		path := filepath.Join(dir, formatName)
		if content == "" {
			require.NoError(t, os.Remove(path))
		} else {
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		}
		_, err := Check(dir)
		require.ErrorContains(t, err, "`snapfs check "+dir+" --repair` makes it anew")
		report := repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Len(t, report.Repaired, 1)
		want := formatJournal
		if _, err := os.Lstat(filepath.Join(dir, journalName)); err != nil {
			want = formatJournal - 1
		}
		require.Equal(t, want, versionIn(t, dir))
		s, err := Open(dir, Options{})
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
	dir := sample(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, formatName), []byte(`{"store":"snapfs","version":99}`), 0o600))
	_, err := repairAndTell(dir)
	require.ErrorContains(t, err, "version 99")
	_, err = repairAndTell(t.TempDir())
	require.ErrorIs(t, err, syscall.ENOENT)
}

// An index of which nothing can be used is not repaired: its backup takes its place, and repair says how.
func TestRepairOfTheIndex(t *testing.T) {
	s, _, _ := backedUpStore(t)
	require.NoError(t, s.Close())
	destroyIndex(t, s.dir)
	report := repaired(t, s.dir)
	require.Len(t, report.Findings, 1)
	require.Contains(t, report.Findings[0].Text, "`snapfs restore-index "+s.dir+"` goes back to the backup of 20")
}

// What is wrong with a catalog is set right, or named with what to do about it; a second repair finds the same.
func TestRepairOfTheCatalog(t *testing.T) {
	mended := map[string]bool{
		"a parent that is no snapshot": true, "an id from the future": true, "blocks without a data file": true,
		"a record that is not listed": true,
	}
	for name, spoil := range catalogDamage() {
		if !oneIn(6) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := sample(t)
			spoilIndex(t, dir, func(tx *blockmap.Tx) error {
				spoil(t, tx)
				return nil
			})
			report := repaired(t, dir)
			switch {
			case mended[name]:
				require.Empty(t, report.Findings)
				s, err := Open(dir, Options{})
				require.NoError(t, err)
				require.NoError(t, s.Close())
			case name == "a block over a hole":
				for _, f := range report.Findings {
					require.Contains(t, f.Text, "has lost 4.0KiB")
				}
			default:
				require.Contains(t, fmt.Sprint(report.Findings), "there is no backup of it in "+dir)
			}
		})
	}
}

// Memory images that are gone: the snapshot stays, without.
func TestRepairOfMemory(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", blockSize)
	image, err := s.NewImage(1 << 20)
	require.NoError(t, err)
	_, err = image.File().Write(pattern(1, 1<<20))
	require.NoError(t, err)
	_, err = v.CreateSnapshot(CreateOptions{Name: "s", Image: image})
	require.NoError(t, err)
	settle(t, s)
	require.NoError(t, s.Close())
	spoilIndex(t, s.dir, func(tx *blockmap.Tx) error { // as before it was packed
		key, _ := firstKey(t, tx, tableImage)
		return edit(tx, key, func(r *imageRecord) { r.Packed = false })
	})
	report := repaired(t, s.dir)
	require.Empty(t, report.Findings)
	require.Equal(t, []Finding{{Object: "web@s", Text: "its memory is there packed"}}, report.Repaired)
	for name := range filesIn(t, filepath.Join(s.dir, imagesName)) {
		require.NoError(t, os.Remove(filepath.Join(s.dir, imagesName, name)))
	}
	report = repaired(t, s.dir)
	require.Empty(t, report.Findings)
	require.Len(t, report.Repaired, 1)
	require.Equal(t, "web@s", report.Repaired[0].Object)
	require.Len(t, report.Lost, 1)
	require.Contains(t, report.Lost[0].Text, "its file is missing")
	n, err := vmNamed(t, openStore(t, s.dir, Options{}), "web").Snapshot("s")
	require.NoError(t, err)
	require.Nil(t, n.Info().Memory)
	require.Contains(t, *n.Info().Warning, lostMemory)
}
