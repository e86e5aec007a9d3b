package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPOSIX is a table of what files on a mount must do, nearly all of it as on ext4. Each
// case has a VM's directory to itself.
func TestPOSIX(t *testing.T) {
	m := newMount(t)
	for _, c := range posixCases {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, m.vm(c.name))
		})
	}
	m.remount()
}

var posixCases = []struct {
	name string
	run  func(t *testing.T, dir string)
}{
	{"unaligned", posixUnaligned},
	{"end-of-file", posixEndOfFile},
	{"shrink-grow", posixShrinkGrow},
	{"sparse", posixSparse},
	{"append", posixAppend},
	{"synchronous", posixSynchronous},
	{"direct", posixDirect},
	{"open-flags", posixOpenFlags},
	{"unlinked", posixUnlinked},
	{"rename-over", posixRenameOver},
	{"rename-flags", posixRenameFlags},
	{"allocate", posixAllocate},
	{"punch", posixPunch},
	{"zero-range", posixZeroRange},
	{"seek", posixSeek},
	{"attributes", posixAttributes},
	{"times", posixTimes},
	{"locks", posixLocks},
	{"copy", posixCopy},
	{"fsync", posixFsync},
	{"huge", posixHuge},
	{"statfs", posixStatfs},
	{"listing", posixListing},
	{"long-name", posixLongName},
	{"private-map", posixPrivateMap},
	{"other-user", posixOtherUser},
}

// open opens a file that the test's end closes.
func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o644)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// pattern is so many bytes of reproducible noise.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(b) // never fails
	return b
}

func writeAt(t testing.TB, f *os.File, b []byte, off int64) {
	t.Helper()
	n, err := f.WriteAt(b, off)
	require.NoError(t, err)
	require.Equal(t, len(b), n)
}

func fstat(t testing.TB, f *os.File) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	return st
}

// requireContent compares without printing megabytes when it fails.
func requireContent(t testing.TB, want []byte, path string) {
	t.Helper()
	got := readFile(t, path)
	require.Len(t, got, len(want))
	for i := range want {
		if want[i] != got[i] {
			require.FailNow(t, "content differs", "%s: at %d of %d: want %#x, got %#x", path, i, len(want), want[i], got[i])
		}
	}
}

func posixUnaligned(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	want := make([]byte, 64<<10)
	writeAt(t, f, want, 0)
	for i, r := range []struct{ off, n int }{
		{0, 1}, {1, 1}, {4095, 2}, {4096, 1}, {511, 513}, {4097, 4095}, {8191, 4098}, {12288, 4096},
		{100, 30000}, {65535, 1}, {40000, 25536}, {20480, 8192}, {3, 65530},
	} {
		b := pattern(uint64(i), r.n)
		copy(want[r.off:], b)
		writeAt(t, f, b, int64(r.off))
		got := make([]byte, r.n+2)
		at := max(0, r.off-1)
		n, _ := f.ReadAt(got, int64(at)) // io.EOF at the end
		require.True(t, bytes.Equal(want[at:min(len(want), at+len(got))], got[:n]), "write %d", i)
	}
	requireContent(t, want, path)
}

func posixEndOfFile(t *testing.T, dir string) {
	path := filepath.Join(dir, "nvram.fd")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	want := pattern(1, 5001)
	writeAt(t, f, want, 0)
	require.EqualValues(t, 5001, fstat(t, f).Size)
	b := make([]byte, 8192)
	for _, c := range []struct{ off, n int }{{0, 5001}, {4096, 905}, {5000, 1}, {5001, 0}, {8192, 0}, {1 << 40, 0}} {
		n, err := unix.Pread(int(f.Fd()), b, int64(c.off))
		require.NoError(t, err)
		require.Equal(t, c.n, n, "at %d", c.off)
		require.Equal(t, want[min(c.off, len(want)):][:n], b[:n])
	}
	writeAt(t, f, []byte("x"), 9000) // the gap reads as zeros
	want = append(append(want, make([]byte, 9000-5001)...), 'x')
	requireContent(t, want, path)
}

func posixShrinkGrow(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	want := pattern(2, 5<<20+17)
	writeAt(t, f, want, 0)
	for _, size := range []int64{5<<20 + 16, 4<<20 + 4095, 4 << 20, 3<<20 + 1, 70000, 4096, 4095, 1, 0} {
		require.NoError(t, f.Truncate(size))
		require.EqualValues(t, size, fstat(t, f).Size)
		grown := size + 10000
		require.NoError(t, f.Truncate(grown))
		want = append(want[:size:size], make([]byte, 10000)...)
		requireContent(t, want, path)
		require.NoError(t, f.Truncate(size))
		want = want[:size]
	}
	require.Zero(t, fstat(t, f).Blocks)
	writeAt(t, f, []byte("again"), 4096)
	requireContent(t, append(make([]byte, 4096), "again"...), path)
}

func posixSparse(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_CREATE|os.O_RDWR)
	require.NoError(t, f.Truncate(1<<30))
	require.LessOrEqual(t, fstat(t, f).Blocks, int64(8))
	writeAt(t, f, pattern(3, 8192), 512<<20)
	require.NoError(t, f.Sync())
	st := fstat(t, f)
	require.GreaterOrEqual(t, st.Blocks, int64(16))
	require.Less(t, st.Blocks, int64(128))
	require.EqualValues(t, 4096, st.Blksize)
}

func posixAppend(t *testing.T, dir string) {
	path := filepath.Join(dir, "log")
	a := open(t, path, os.O_CREATE|os.O_WRONLY|os.O_APPEND)
	b := open(t, path, os.O_WRONLY|os.O_APPEND)
	var want []byte
	for i := range 20 {
		for j, f := range []*os.File{a, b} {
			line := pattern(uint64(2*i+j), 700)
			_, err := f.Write(line)
			require.NoError(t, err)
			want = append(want, line...)
		}
	}
	requireContent(t, want, path)
}

func posixSynchronous(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	want := make([]byte, 20000)
	for i, flag := range []int{unix.O_DSYNC, unix.O_SYNC, unix.O_DSYNC | unix.O_DIRECT} {
		f := open(t, path, os.O_CREATE|os.O_WRONLY|flag)
		b := pattern(uint64(i), 8192)
		copy(want[i*4096:], b)
		writeAt(t, f, b, int64(i*4096))
	}
	require.NoError(t, os.Truncate(path, int64(len(want))))
	requireContent(t, want, path)
}

func posixDirect(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT)
	mem, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(mem)) }()
	want := pattern(4, 2<<20)
	copy(mem, want)
	writeAt(t, f, mem, 0)
	clear(mem)
	n, err := f.ReadAt(mem, 0)
	require.NoError(t, err)
	require.Equal(t, len(mem), n)
	require.True(t, bytes.Equal(want, mem))
	requireContent(t, want, path)
}

func posixOpenFlags(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	_, err := os.OpenFile(path, os.O_RDWR, 0)
	require.ErrorIs(t, err, syscall.ENOENT)
	f := open(t, path, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	writeAt(t, f, []byte("content"), 0)
	_, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	require.ErrorIs(t, err, syscall.EEXIST)
	open(t, path, os.O_WRONLY|os.O_TRUNC)
	require.Zero(t, fstat(t, f).Size)
	_, err = os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	require.ErrorIs(t, err, syscall.ENOTDIR)
	_, err = os.OpenFile(dir, os.O_RDWR, 0)
	require.ErrorIs(t, err, syscall.EISDIR)
	_, err = os.Stat(filepath.Join(path, "below"))
	require.ErrorIs(t, err, syscall.ENOTDIR)
	require.ErrorIs(t, unix.Rmdir(path), syscall.ENOTDIR)
	require.ErrorIs(t, unix.Unlink(dir), syscall.EISDIR)
	require.ErrorIs(t, unix.Rmdir(dir), syscall.ENOTEMPTY)
	require.ErrorIs(t, unix.Unlink(filepath.Join(dir, "none")), syscall.ENOENT)
}

func posixUnlinked(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	writeAt(t, f, pattern(5, 10000), 0)
	require.NoError(t, os.Remove(path))
	require.NoFileExists(t, path)
	require.Zero(t, fstat(t, f).Nlink)
	writeFile(t, path, []byte("another of this name"))
	writeAt(t, f, []byte("still there"), 5000)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Truncate(12000))
	want := append(pattern(5, 10000), make([]byte, 2000)...)
	copy(want[5000:], "still there")
	got := make([]byte, len(want))
	_, err := f.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, f.Close())
	requireContent(t, []byte("another of this name"), path)
}

func posixRenameOver(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writeFile(t, a, []byte("from a"))
	writeFile(t, b, []byte("from b"))
	old := open(t, b, os.O_RDWR)
	moved := open(t, a, os.O_RDWR)
	require.NoError(t, os.Rename(a, b))
	require.NoFileExists(t, a)
	requireContent(t, []byte("from a"), b)
	got := make([]byte, 6)
	_, err := old.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, "from b", string(got))
	writeAt(t, moved, []byte("FROM"), 0)
	writeAt(t, old, []byte("gone"), 0)
	requireContent(t, []byte("FROM a"), b)
	require.NoError(t, os.Rename(b, b))
	requireContent(t, []byte("FROM a"), b)
	require.ErrorIs(t, os.Rename(a, b), syscall.ENOENT)
	require.Equal(t, []string{"b"}, names(t, dir))
}

func posixRenameFlags(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writeFile(t, a, []byte("a"))
	writeFile(t, b, []byte("b"))
	rename := func(flags uint) error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags) }
	require.Equal(t, unix.EEXIST, rename(unix.RENAME_NOREPLACE))
	require.NoError(t, rename(unix.RENAME_EXCHANGE))
	requireContent(t, []byte("b"), a)
	requireContent(t, []byte("a"), b)
	require.NoError(t, os.Remove(b))
	require.Equal(t, unix.ENOENT, rename(unix.RENAME_EXCHANGE))
	require.NoError(t, rename(unix.RENAME_NOREPLACE))
	requireContent(t, []byte("b"), b)
}

func posixAllocate(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	want := pattern(6, 10000)
	writeAt(t, f, want, 0)
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20))
	requireContent(t, want, path)
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 5000, 20000))
	requireContent(t, append(want, make([]byte, 15000)...), path)
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, 100))
	require.EqualValues(t, 25000, fstat(t, f).Size)
	for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_PUNCH_HOLE} {
		require.Equal(t, unix.EOPNOTSUPP, unix.Fallocate(int(f.Fd()), mode, 0, 4096), "mode %#x", mode)
	}
	// What is refused must not switch the rest off.
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, 30000))
	require.EqualValues(t, 30000, fstat(t, f).Size)
	require.Equal(t, unix.EINVAL, unix.Fallocate(int(f.Fd()), 0, 0, 0))
	readOnly := open(t, path, os.O_RDONLY)
	require.Equal(t, unix.EBADF, unix.Fallocate(int(readOnly.Fd()), 0, 0, 4096))
}

func posixPunch(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	want := pattern(7, 6<<20)
	writeAt(t, f, want, 0)
	require.NoError(t, f.Sync())
	full := fstat(t, f).Blocks
	for _, r := range []struct{ off, n int }{
		{4096, 4096}, {10000, 100}, {20000, 10000}, {65536, 1}, {1 << 20, 3 << 20}, {4<<20 - 5, 4106}, {6<<20 - 100, 5000}, {8 << 20, 4096},
	} {
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(r.off), int64(r.n)))
		if r.off < len(want) {
			clear(want[r.off:min(len(want), r.off+r.n)])
		}
		requireContent(t, want, path)
	}
	require.NoError(t, f.Sync())
	require.LessOrEqual(t, fstat(t, f).Blocks, full-(3<<20)/512)
	writeAt(t, f, []byte("back"), 2<<20+5)
	copy(want[2<<20+5:], "back")
	requireContent(t, want, path)
}

func posixZeroRange(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	want := pattern(8, 100000)
	writeAt(t, f, want, 0)
	zero := func(mode uint32, off, n int) {
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|mode, int64(off), int64(n)))
	}
	zero(0, 5000, 20000)
	clear(want[5000:25000])
	requireContent(t, want, path)
	zero(unix.FALLOC_FL_KEEP_SIZE, 90000, 20000)
	clear(want[90000:])
	requireContent(t, want, path)
	zero(0, 99000, 21000)
	want = append(want, make([]byte, 20000)...)
	requireContent(t, want, path)
	writeAt(t, f, []byte("x"), 6000)
	want[6000] = 'x'
	requireContent(t, want, path)
}

func posixSeek(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_CREATE|os.O_RDWR)
	require.NoError(t, f.Truncate(16<<20))
	seek := func(off int64, whence int, want int64) {
		t.Helper()
		got, err := unix.Seek(int(f.Fd()), off, whence)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	beyond := func(off int64, whence int) {
		t.Helper()
		_, err := unix.Seek(int(f.Fd()), off, whence)
		require.Equal(t, unix.ENXIO, err)
	}
	beyond(0, unix.SEEK_DATA)
	seek(0, unix.SEEK_HOLE, 0)
	writeAt(t, f, pattern(9, 8192), 5<<20)
	writeAt(t, f, pattern(9, 4096), 12<<20)
	seek(0, unix.SEEK_DATA, 5<<20)
	seek(5<<20+100, unix.SEEK_DATA, 5<<20+100)
	seek(5<<20, unix.SEEK_HOLE, 5<<20+8192)
	seek(5<<20+8192, unix.SEEK_DATA, 12<<20)
	beyond(12<<20+4096, unix.SEEK_DATA)
	seek(12<<20, unix.SEEK_HOLE, 12<<20+4096)
	seek(15<<20, unix.SEEK_HOLE, 15<<20)
	beyond(16<<20, unix.SEEK_HOLE)
	beyond(16<<20, unix.SEEK_DATA)
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5<<20, 8192))
	seek(0, unix.SEEK_DATA, 12<<20)
	require.NoError(t, f.Truncate(12<<20+4096))
	seek(12<<20, unix.SEEK_HOLE, 12<<20+4096) // the end is a hole
	_, err := unix.Seek(int(f.Fd()), -1, unix.SEEK_SET)
	require.Equal(t, unix.EINVAL, err)
}

func posixAttributes(t *testing.T, dir string) {
	for _, path := range []string{filepath.Join(dir, "f"), dir} {
		f := open(t, filepath.Join(dir, "f"), os.O_CREATE|os.O_RDWR)
		require.NoError(t, f.Close())
		require.NoError(t, os.Chmod(path, 0o640))
		require.NoError(t, os.Chown(path, 1234, 5678))
		var st unix.Stat_t
		require.NoError(t, unix.Stat(path, &st))
		require.EqualValues(t, 0o640, st.Mode&0o7777)
		require.EqualValues(t, 1234, st.Uid)
		require.EqualValues(t, 5678, st.Gid)
		require.NoError(t, os.Chown(path, -1, 99)) // the owner stays
		require.NoError(t, unix.Stat(path, &st))
		require.EqualValues(t, 1234, st.Uid)
		require.EqualValues(t, 99, st.Gid)
	}
	_, err := unix.Getxattr(filepath.Join(dir, "f"), "user.none", nil)
	require.Error(t, err)
}

func posixTimes(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	writeFile(t, path, []byte("x"))
	atime, mtime := time.Unix(1_000_000_000, 123_456_789), time.Unix(1_234_567_890, 987_654_321)
	require.NoError(t, os.Chtimes(path, atime, mtime))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	require.EqualValues(t, atime.UnixNano(), st.Atim.Nano())
	require.EqualValues(t, mtime.UnixNano(), st.Mtim.Nano())
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(5, 0))) // atime omitted
	require.NoError(t, unix.Stat(path, &st))
	require.EqualValues(t, atime.UnixNano(), st.Atim.Nano())
	writeFile(t, path, []byte("y"))
	require.NoError(t, unix.Stat(path, &st))
	require.Greater(t, st.Mtim.Nano(), mtime.UnixNano(), "a write is a modification")
	require.NoError(t, unix.Stat(dir, &st))
	before := st.Mtim.Nano()
	time.Sleep(20 * time.Millisecond) // file systems may keep time in ticks
	writeFile(t, filepath.Join(dir, "new"), nil)
	require.NoError(t, unix.Stat(dir, &st))
	require.Greater(t, st.Mtim.Nano(), before, "a new name modifies the directory")
}

func posixLocks(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	a, b := open(t, path, os.O_CREATE|os.O_RDWR), open(t, path, os.O_RDWR)
	lock := func(f *os.File, kind int16) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: 100, Len: 1})
	}
	require.NoError(t, lock(a, unix.F_WRLCK))
	require.Equal(t, unix.EAGAIN, lock(b, unix.F_WRLCK))
	require.NoError(t, lock(a, unix.F_UNLCK))
	require.NoError(t, lock(b, unix.F_WRLCK))
	require.NoError(t, b.Close())
	require.NoError(t, lock(a, unix.F_WRLCK))
	c := open(t, path, os.O_RDONLY)
	require.NoError(t, unix.Flock(int(c.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	require.Equal(t, unix.EAGAIN, unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

func posixCopy(t *testing.T, dir string) {
	want := pattern(10, 3<<20+5)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	writeFile(t, from, want)
	in, out := open(t, from, os.O_RDONLY), open(t, to, os.O_CREATE|os.O_RDWR)
	n, err := in.WriteTo(out) // copy_file_range
	require.NoError(t, err)
	require.EqualValues(t, len(want), n)
	requireContent(t, want, to)
	run(t, "cp", "--sparse=always", from, filepath.Join(dir, "third"))
	requireContent(t, want, filepath.Join(dir, "third"))
	run(t, "cp", to, filepath.Join(t.TempDir(), "outside"))
}

func posixFsync(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	for range 3 {
		writeAt(t, f, pattern(11, 5000), 1000)
		require.NoError(t, f.Sync())
		require.NoError(t, unix.Fdatasync(int(f.Fd())))
	}
	require.NoError(t, open(t, path, os.O_RDONLY).Sync())
	require.NoError(t, open(t, dir, os.O_RDONLY).Sync())
}

func posixHuge(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	require.NoError(t, f.Truncate(1<<40))
	writeAt(t, f, []byte("end"), 1<<40-3)
	writeAt(t, f, []byte("start"), 0)
	b := make([]byte, 3)
	_, err := f.ReadAt(b, 1<<40-3)
	require.NoError(t, err)
	require.Equal(t, "end", string(b))
	require.NoError(t, f.Sync())
	require.NoError(t, f.Truncate(100))
	require.NoError(t, f.Truncate(1<<40))
	_, err = f.ReadAt(b, 1<<40-3)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00\x00", string(b))
	require.LessOrEqual(t, fstat(t, f).Blocks, int64(16))
}

func posixStatfs(t *testing.T, dir string) {
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	require.EqualValues(t, 4096, st.Bsize)
	require.EqualValues(t, 255, st.Namelen)
	require.Positive(t, st.Blocks)
	require.LessOrEqual(t, st.Bavail, st.Bfree)
	require.LessOrEqual(t, st.Bfree, st.Blocks)
}

func posixListing(t *testing.T, dir string) {
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("file-%d-%x", i, pattern(uint64(i), 20))
		writeFile(t, filepath.Join(dir, name), nil)
		want = append(want, name)
	}
	require.ElementsMatch(t, want, names(t, dir))
	d := open(t, dir, os.O_RDONLY)
	first, err := d.Readdirnames(10)
	require.NoError(t, err)
	rest, err := d.Readdirnames(0)
	require.NoError(t, err)
	require.ElementsMatch(t, want, append(first, rest...))
	writeFile(t, filepath.Join(dir, "later"), nil)
	_, err = d.Seek(0, 0)
	require.NoError(t, err)
	again, err := d.Readdirnames(0)
	require.NoError(t, err)
	require.Len(t, again, len(want)+1)
}

func posixLongName(t *testing.T, dir string) {
	name := string(bytes.Repeat([]byte("n"), 255))
	writeFile(t, filepath.Join(dir, name), []byte("x"))
	require.Equal(t, []string{name}, names(t, dir))
	_, err := os.Create(filepath.Join(dir, name+"n"))
	require.ErrorIs(t, err, syscall.EINVAL)
	writeFile(t, filepath.Join(dir, "größe 大.img"), []byte("y"))
	require.Len(t, names(t, dir), 2)
}

func posixPrivateMap(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	want := pattern(12, 10000)
	writeFile(t, path, want)
	f := open(t, path, os.O_RDONLY)
	b, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_PRIVATE)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, b))
	require.NoError(t, unix.Munmap(b))
}

func posixOtherUser(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	writeFile(t, path, []byte("secret"))
	as := func(uid uint32, name string, args ...string) error {
		cmd := exec.Command(name, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd.Run()
	}
	require.NoError(t, as(65534, "cat", path), "mode 0644 lets others read")
	require.Error(t, as(65534, "truncate", "-s", "0", path))
	require.NoError(t, os.Chmod(path, 0o600))
	require.Error(t, as(65534, "cat", path))
	require.NoError(t, os.Chown(path, 65534, 65534))
	require.NoError(t, as(65534, "truncate", "-s", "3", path))
	require.Error(t, as(65534, "touch", filepath.Join(dir, "new")), "the directory is root's")
	requireContent(t, []byte("sec"), path)
}
