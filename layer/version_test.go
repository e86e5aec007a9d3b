package layer

// Versions of the format: an older one is served as it is, until somebody has it raised; a newer one is refused.

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// knowing makes this a program that knows versions up to one, until the test ends; no store is open.
func knowing(t *testing.T, version int) {
	before := newestFormat
	newestFormat = version
	t.Cleanup(func() { newestFormat = before })
}

// versionIn is what FORMAT says.
func versionIn(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, formatName))
	require.NoError(t, err)
	var f format
	require.NoError(t, json.Unmarshal(data, &f))
	return f.Version
}

// newDiskOf makes a VM with a disk that the index knows, so that small flushes could go to the journal.
func newDiskOf(t *testing.T, s *Store) *File {
	t.Helper()
	f := makeFile(t, makeVM(t, s, "web"), "root", 100*blockSize)
	write(t, f, blocksOf(1, 1), 0)
	commit(t, f)
	return f
}

// flushSmall flushes a block that is new, and says whether that went to the journal.
func flushSmall(t *testing.T, f *File, block int) bool {
	t.Helper()
	before := f.vm.store.journal.position()
	write(t, f, blocksOf(byte(block), 1), int64(block)*blockSize)
	flush(t, f)
	return f.vm.store.journal.position() > before
}

func TestOlderFormat(t *testing.T) {
	knowing(t, 1)
	s := newStore(t, Options{})
	newDiskOf(t, s)
	require.Equal(t, FormatInfo{Version: 1, Newest: 1}, s.Format())
	require.NoError(t, s.Close())

	newestFormat = 2
	s = openStore(t, s.dir, Options{})
	require.Equal(t, FormatInfo{Version: 1, Newest: 2, Lacks: "a journal, so that small flushes take longer"}, s.Format())
	f := fileNamed(t, vmNamed(t, s, "web"), "root")
	for block := 1; block < 10; block++ {
		require.False(t, flushSmall(t, f, block))
	}
	for _, version := range []int{0, -1, 3} {
		require.Equal(t, syscall.EINVAL, Errno(s.RaiseFormat(version)))
	}
	require.NoError(t, s.RaiseFormat(1))
	require.NoError(t, s.Close())
	require.NoFileExists(t, filepath.Join(s.dir, journalName))
	require.Equal(t, 1, versionIn(t, s.dir))

	newestFormat = 1 // one can go back
	s = reopen(t, s)
	require.NoError(t, s.Close())

	newestFormat = 2
	s = openStore(t, s.dir, Options{})
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	require.NoError(t, s.RaiseFormat(2))
	require.NoError(t, s.RaiseFormat(2))
	require.Equal(t, FormatInfo{Version: 2, Newest: 2}, s.Format())
	require.Equal(t, 2, versionIn(t, s.dir))
	require.ErrorContains(t, s.RaiseFormat(1), "can't be made 1 again")
	openJournal(t, s)
	require.True(t, flushSmall(t, f, 10))
	s = kill(t, s, filepath.Join(t.TempDir(), "killed"))
	requireSame(t, blocksOf(10, 1), content(t, fileNamed(t, vmNamed(t, s, "web"), "root"))[10*blockSize:11*blockSize], "what was flushed")
	require.NoError(t, s.Close())

	newestFormat = 1
	const refused = "was made by a newer version: version 2; this program knows 1 only"
	_, err := Open(s.dir, Options{})
	require.ErrorContains(t, err, refused)
	_, err = Check(s.dir)
	require.ErrorContains(t, err, refused)
	_, err = repairAndTell(s.dir)
	require.ErrorContains(t, err, refused)
	_, err = restoreAndTell(s.dir, true)
	require.ErrorContains(t, err, refused)
	_, err = FormatOf(s.dir)
	require.ErrorContains(t, err, refused)
}

// Another version takes over what was only written, and gives it back: the session stays as it was made.
func TestOlderSession(t *testing.T) {
	knowing(t, 1)
	s := newStore(t, Options{})
	f := newDiskOf(t, s)
	for block := 1; block < 10; block++ {
		write(t, f, blocksOf(byte(block), 1), int64(block)*blockSize)
		newestFormat = 1 + block%2
		s = takeOver(t, s)
		f = fileNamed(t, vmNamed(t, s, "web"), "root")
		for i := 1; i <= block; i++ {
			requireSame(t, blocksOf(byte(i), 1), content(t, f)[i*blockSize:(i+1)*blockSize], "block %d, not flushed", i)
		}
	}
	require.EqualValues(t, 1+sessionMagic, s.session.header.magic.Load())

	session, err := NewSessionFor(s.dir)
	require.NoError(t, err)
	require.EqualValues(t, 1+sessionMagic, session.header.magic.Load())
	newestFormat = 2
	session, err = NewSession()
	require.NoError(t, err)
	newestFormat = 1
	_, err = AdoptSession(session.FD())
	require.ErrorContains(t, err, "the session of the mount was made by a newer version: version 2; this program knows 1 only")
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	for _, size := range []int64{0, 4, 1 << 20} {
		require.NoError(t, file.Truncate(size))
		_, err = AdoptSession(int(file.Fd()))
		require.ErrorContains(t, err, "holds no session")
	}
}

// Each step of raising it fails once: the store has one version or the other, and then the new one.
func TestRaiseFormatFailures(t *testing.T) {
	knowing(t, 1)
	base := newStore(t, Options{})
	newDiskOf(t, base)
	require.NoError(t, base.Close())
	newestFormat = 2
	hits := 0
	for _, kind := range []string{"create", "write", "sync", "rename", "open"} {
		for n := 1; ; n++ {
			f := &failure{kind: kind, n: n}
			f.install(t)
			s, err := Open(copied(t, base.dir), Options{})
			require.NoError(t, err)
			f.arm(true)
			err = s.RaiseFormat(2)
			hit := f.arm(false)
			if hit {
				hits++
				require.Error(t, err)
				require.Equal(t, syscall.EIO, Errno(err))
				require.Equal(t, 1, s.Format().Version)
				require.Contains(t, []int{1, 2}, versionIn(t, s.dir))
				require.False(t, flushSmall(t, fileNamed(t, vmNamed(t, s, "web"), "root"), 20))
				require.NoError(t, s.RaiseFormat(2))
			}
			require.NoError(t, s.Close())
			require.Equal(t, 2, versionIn(t, s.dir))
			requireSound(t, s.dir)
			if !hit {
				break
			}
		}
	}
	require.GreaterOrEqual(t, hits, 6, "two files and two syncs, a write, a rename")
}

// The power is cut before each step of raising it and of making the journal, and after a flush to that: where there is a
// journal, the version says so.
func TestRaiseFormatThenPowerCut(t *testing.T) {
	d := newDisk(t)
	knowing(t, 1)
	dir := filepath.Join(d.mount, "store")
	s := openStore(t, dir, Options{})
	newDiskOf(t, s)
	require.NoError(t, s.Close())
	newestFormat = 2
	var mu sync.Mutex // guards what follows
	var armed bool
	var images []string
	arm := func(on bool) { mu.Lock(); armed = on; mu.Unlock() }
	noted = func(kind, path string) {
		mu.Lock()
		defer mu.Unlock()
		if armed {
			images = append(images, d.cut(t))
		}
	}
	t.Cleanup(func() { noted = nil })
	s = openStore(t, dir, Options{})
	f := fileNamed(t, vmNamed(t, s, "web"), "root")
	arm(true)
	require.NoError(t, s.RaiseFormat(2))
	openJournal(t, s)
	arm(false)
	require.True(t, flushSmall(t, f, 30))
	flushed := d.cut(t)
	_ = s.Close()
	noted = nil
	versions := map[int]int{}
	for _, image := range append(images, flushed) {
		d.restart(t, image)
		versions[versionIn(t, dir)]++
		require.False(t, exists(filepath.Join(dir, journalName)) && versionIn(t, dir) == 1)
		s = openStore(t, dir, Options{})
		got := content(t, fileNamed(t, vmNamed(t, s, "web"), "root"))
		requireSame(t, blocksOf(1, 1), got[:blockSize], "what was flushed before")
		if image == flushed {
			requireSame(t, blocksOf(30, 1), got[30*blockSize:31*blockSize], "what was flushed to the journal")
		}
		require.NoError(t, s.Close())
		requireSound(t, dir)
	}
	require.Len(t, versions, 2)
}

// An older copy of FORMAT, on a store that has a journal by now: programs that know no journal would lose what it has.
func TestFormatBehindTheStore(t *testing.T) {
	s := newStore(t, Options{})
	openJournal(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, setVersion(s.dir, 1))
	require.Contains(t, findingOf(t, s.dir, formatName), "is an older copy: it has version 1")
	report := repaired(t, s.dir)
	require.Empty(t, report.Findings)
	require.Equal(t, formatName, report.Repaired[0].Object)
	require.Equal(t, 2, versionIn(t, s.dir))

	require.NoError(t, setVersion(s.dir, 1))
	was := newestFormat
	newestFormat = 1
	_, err := Open(s.dir, Options{})
	newestFormat = was
	require.ErrorContains(t, err, "was made by a newer version: version 2")
	var events sync.Map
	s = openStore(t, s.dir, Options{Event: func(_, event string, attrs ...any) { events.Store(event, attrs) }})
	_, told := events.Load("format-corrected")
	require.True(t, told)
	require.Equal(t, 2, versionIn(t, s.dir))
}
