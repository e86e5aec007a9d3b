package layer

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// ram is what a machine's memory may look like: some of it is noise, much is alike.
func ram(size int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, size)
	for at := 0; at < size; at += 64 << 10 {
		_, _ = r.Read(b[at:min(at+16<<10, size)])
	}
	return b
}

// withMemory makes a snapshot with memory, as the daemon does.
func withMemory(t *testing.T, v *VM, name string, memory []byte) *Snapshot {
	t.Helper()
	i, err := v.store.NewImage(int64(len(memory)))
	require.NoError(t, err)
	running := true
	p, err := v.PrepareSnapshot(CreateOptions{Name: name, Image: i, Running: &running, Machine: []byte(`{"cpus":2}`)})
	require.NoError(t, err)
	_, err = i.File().Write(memory)
	require.NoError(t, err)
	p.Swap()
	info, err := p.Seal(nil)
	require.NoError(t, err)
	require.NoError(t, i.Discard(), "does nothing")
	require.EqualValues(t, len(memory), *info.Memory)
	require.True(t, *info.Running)
	require.Nil(t, info.Warning)
	require.Equal(t, ConsistencyCrash, info.Consistency)
	n, err := v.Snapshot(name)
	require.NoError(t, err)
	return n
}

func memoryOf(t *testing.T, n *Snapshot) Memory {
	t.Helper()
	m, err := n.Memory()
	require.NoError(t, err)
	return m
}

// requireMemory reads all of a memory in pieces of some size, and at some places.
func requireMemory(t *testing.T, want []byte, m Memory) {
	t.Helper()
	require.EqualValues(t, len(want), m.Attr().Size)
	got := make([]byte, 0, len(want)+1)
	for {
		n, err := m.Read(got[len(got):min(len(got)+100_000, cap(got))], int64(len(got)))
		require.NoError(t, err)
		if n == 0 {
			break
		}
		got = got[:len(got)+n]
	}
	require.True(t, bytes.Equal(want, got))
	for _, off := range []int{0, 1, frameSize - 1, frameSize, len(want) - 10, len(want), len(want) + 5} {
		p := make([]byte, 20)
		n, err := m.Read(p, int64(off))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want[min(off, len(want)):min(off+20, len(want))], p[:n]), "at %d", off)
	}
}

func imageFiles(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.images.dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// imageRecords are those of the catalog.
func imageRecords(t *testing.T, s *Store) map[imageID]imageRecord {
	t.Helper()
	c, err := readCatalog(s.index)
	require.NoError(t, err)
	return c.images
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	require.Eventually(t, done, time.Minute, time.Millisecond)
}

func requireCheck(t *testing.T, s *Store) *Store {
	t.Helper()
	require.NoError(t, s.Close())
	report, err := Check(s.dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	return openStore(t, s.dir, s.opts)
}

// A memory reads the same while it is as QEMU left it, while it is being packed, when it is packed, and after a start.
func TestMemory(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", blockSize)
	memory := ram(5*frameSize + 12345)
	n := withMemory(t, v, "one", memory)
	m := memoryOf(t, n)
	require.NoError(t, m.Open(1))
	for !n.image.isPacked() {
		requireMemory(t, memory, m)
	}
	requireMemory(t, memory, m)
	eventually(t, func() bool { return len(imageFiles(t, s)) == 1 })
	packed, err := os.Stat(s.images.path(n.image.id, true))
	require.NoError(t, err)
	require.Less(t, packed.Size(), int64(len(memory)/2))
	require.Equal(t, packed.Size(), s.MemoryBytes())

	s = takeOver(t, s)
	v = vmNamed(t, s, "web")
	n, err = v.Snapshot("one")
	require.NoError(t, err)
	m = memoryOf(t, n)
	requireMemory(t, memory, m)
	_, err = v.DeleteSnapshots([]string{"one"})
	require.Equal(t, syscall.EBUSY, Errno(err), "it is open")
	m.Close(1)
	s = requireCheck(t, s)
	v = vmNamed(t, s, "web")
	n, err = v.Snapshot("one")
	require.NoError(t, err)
	require.True(t, *n.Info().Running)
	requireMemory(t, memory, memoryOf(t, n))
	machine, err := n.Machine()
	require.NoError(t, err)
	require.Equal(t, `{"cpus":2}`, string(machine))

	m = memoryOf(t, n)
	_, err = v.RenameSnapshot("one", "two")
	require.NoError(t, err)
	requireMemory(t, memory, m)
	_, err = v.DeleteSnapshots([]string{"two"})
	require.NoError(t, err)
	require.Equal(t, syscall.ESTALE, Errno(m.Open(2)))
	_, err = m.Read(make([]byte, 1), 0)
	require.Equal(t, syscall.ESTALE, Errno(err))
	eventually(t, func() bool { return len(imageFiles(t, s)) == 0 && len(imageRecords(t, s)) == 0 })
	machine, err = n.Machine()
	require.NoError(t, err)
	require.Nil(t, machine)
	requireCheck(t, s)
}

// Many read while the image is being packed and the snapshot goes: right bytes, or none.
func TestMemoryReaders(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	memory := ram(3 * frameSize)
	for range 5 {
		m := memoryOf(t, withMemory(t, v, "one", memory))
		read := make(chan error, 4)
		for range cap(read) {
			go func() {
				p := make([]byte, 30_000)
				for {
					off := rand.IntN(len(memory) - len(p))
					if _, err := m.Read(p, int64(off)); err != nil {
						read <- err
						return
					}
					if !bytes.Equal(p, memory[off:off+len(p)]) {
						read <- nil
						return
					}
				}
			}()
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		_, err := v.DeleteSnapshots([]string{"one"})
		require.NoError(t, err)
		for range cap(read) {
			require.Equal(t, syscall.ESTALE, Errno(<-read))
		}
	}
	eventually(t, func() bool { return len(imageFiles(t, s)) == 0 && len(imageRecords(t, s)) == 0 })
	requireCheck(t, s)
}

// What ends before the snapshot has its memory leaves no image.
func TestMemoryGivenUp(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", blockSize)
	nothing := func() {
		t.Helper()
		require.Empty(t, imageFiles(t, s))
		require.Empty(t, imageRecords(t, s))
		require.Empty(t, v.Snapshots())
	}
	image := func() *Image {
		t.Helper()
		i, err := s.NewImage(blockSize)
		require.NoError(t, err)
		return i
	}
	i := image()
	require.NoError(t, i.Discard())
	require.NoError(t, i.Discard())
	nothing()

	for name, verdict := range map[string]Verdict{"nothing is written": {}, "the guest was not let go of": {Err: syscall.ETIMEDOUT}} {
		t.Run(name, func(t *testing.T) {
			i := image()
			p, err := v.PrepareSnapshot(CreateOptions{Name: "one", Image: i})
			require.NoError(t, err)
			p.Swap()
			_, err = p.Seal(func() Verdict { return verdict })
			require.Error(t, err)
			require.NoError(t, i.Discard())
			nothing()
		})
	}
	requireCheck(t, s)
}

// An image takes no more than there is above the reserve.
func TestMemoryReserve(t *testing.T) {
	s := newStore(t, Options{})
	total, _ := s.space.measure()
	_, err := s.NewImage(total)
	require.Equal(t, syscall.ENOSPC, Errno(err))
	require.Empty(t, imageFiles(t, s))
	require.Empty(t, imageRecords(t, s))

	i, err := s.NewImage(blockSize)
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(i.file.Fd()), &st))
	require.GreaterOrEqual(t, st.Blocks*512, int64(imageAhead))
	written, err := i.Grow(0)
	require.NoError(t, err)
	require.Zero(t, written)
	_, err = i.file.Seek(imageAhead, 0)
	require.NoError(t, err)
	s.space.reserve = total // what is free may change meanwhile
	_, err = i.Grow(0)
	require.Equal(t, syscall.ENOSPC, Errno(err))
	s.space.reserve = 0
	written, err = i.Grow(imageStep)
	require.NoError(t, err)
	require.EqualValues(t, imageAhead, written)
	require.NoError(t, unix.Fstat(int(i.file.Fd()), &st))
	require.GreaterOrEqual(t, st.Blocks*512, int64(2*imageAhead+imageStep))
	require.NoError(t, i.Discard())
}

// A description is there with its snapshot, and not without.
func TestMachineOfASnapshotGivenUp(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", blockSize)
	count := func() (n int) {
		require.NoError(t, s.index.View(func(tx *blockmap.Tx) error {
			return tx.Scan([]byte{tableMachine}, func(_, _ []byte) error { n++; return nil })
		}))
		return n
	}
	o := CreateOptions{Name: "one", Machine: []byte(`{}`)}
	p, err := v.PrepareSnapshot(o)
	require.NoError(t, err)
	p.Abort()
	require.Zero(t, count())
	p, err = v.PrepareSnapshot(o)
	require.NoError(t, err)
	p.Swap()
	_, err = p.Seal(func() Verdict { return Verdict{Err: syscall.ETIMEDOUT} })
	require.Error(t, err)
	require.Zero(t, count())
	_, err = v.CreateSnapshot(o)
	require.NoError(t, err)
	require.Equal(t, 1, count())
	_, err = v.PrepareSnapshot(CreateOptions{Name: "two", Machine: []byte(`{}`)})
	require.NoError(t, err)
	require.Equal(t, 2, count())
	s = kill(t, s, t.TempDir())
	t.Cleanup(func() { _ = s.Close() })
	require.Equal(t, 1, count(), "a start undoes what was prepared")
}

// What a crash leaves at each step: an image of a snapshot that is not there goes, one that was being packed is packed,
// one that was packed loses what is left of its first form.
func TestMemoryAfterACrash(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	memory := ram(2*frameSize + 1)
	n := withMemory(t, v, "one", memory)
	eventually(t, func() bool { return len(imageFiles(t, s)) == 1 && n.image.isPacked() })
	half, err := s.NewImage(blockSize)
	require.NoError(t, err)
	raw := filepath.Join(s.images.dir, fileName(LayerID(n.image.id)))
	require.NoError(t, os.WriteFile(raw, memory, 0o600))
	require.NoError(t, half.file.Close())
	s = reopen(t, s)
	require.Equal(t, []string{filepath.Base(raw) + packedExt}, settled(t, s))
	require.Len(t, imageRecords(t, s), 1)

	// As it was before it was packed, with half of the packed file.
	require.NoError(t, os.WriteFile(raw, memory, 0o600))
	require.NoError(t, os.Truncate(raw+packedExt, 1000))
	err = s.update(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableImage, n.image.id), func(r *imageRecord) { r.Packed = false })
	})
	require.NoError(t, err)
	s = reopen(t, s)
	require.Equal(t, []string{filepath.Base(raw) + packedExt}, settled(t, s))
	n, err = vmNamed(t, s, "web").Snapshot("one")
	require.NoError(t, err)
	requireMemory(t, memory, memoryOf(t, n))

	// Before it was the snapshot's.
	image := n.snapshotRecord.Memory
	err = s.update(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableSnapshot, n.id), func(r *snapshotRecord) { r.Memory = 0 })
	})
	require.NoError(t, err)
	s = reopen(t, s)
	eventually(t, func() bool { return len(imageFiles(t, s)) == 0 && len(imageRecords(t, s)) == 0 })
	require.NotZero(t, image)
	n, err = vmNamed(t, s, "web").Snapshot("one")
	require.NoError(t, err)
	require.Nil(t, n.Info().Memory)
	requireCheck(t, s)
}

// settled waits until all images of the snapshots are packed and nothing else is left, and lists the files.
func settled(t *testing.T, s *Store) []string {
	t.Helper()
	eventually(t, func() bool {
		packed := 0
		for _, r := range imageRecords(t, s) {
			if r.Packed {
				packed++
			}
		}
		return packed == len(imageRecords(t, s)) && len(imageFiles(t, s)) == packed
	})
	return imageFiles(t, s)
}
