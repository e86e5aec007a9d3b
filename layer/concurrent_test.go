package layer

// Everything at once. Run with -race.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// sector is what one writer writes at once; several writers share each block.
const sector = 512

// stamped is a file of sectors, each of which says where it lies and how often it was written.
type stamped struct {
	file    *File
	sectors int
	done    []atomic.Uint64 // by sector: the last write that has returned
}

func newStamped(f *File, sectors int) *stamped {
	return &stamped{file: f, sectors: sectors, done: make([]atomic.Uint64, sectors)}
}

func stamp(p []byte, number int, count uint64) {
	for i := 0; i < sector; i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(number))
		binary.LittleEndian.PutUint64(p[i+8:], count)
	}
}

// stampOf returns how often a sector was written; 0 for zeros, and an error for what nobody wrote.
func stampOf(p []byte, number int) (uint64, error) {
	count := binary.LittleEndian.Uint64(p[8:])
	for i := 0; i < sector; i += 16 {
		at, n := binary.LittleEndian.Uint64(p[i:]), binary.LittleEndian.Uint64(p[i+8:])
		if n != count || at != uint64(number) && n != 0 {
			return 0, fmt.Errorf("sector %d holds %x, beside %d as its count", number, p[i:i+16], count)
		}
	}
	return count, nil
}

// write writes a sector, of which the caller is the only writer.
func (s *stamped) write(number int) error {
	count := s.done[number].Load() + 1
	var p [sector]byte
	stamp(p[:], number, count)
	if _, err := waitFor(s.file.Write, p[:], int64(number)*sector); err != nil {
		return err
	}
	s.done[number].Store(count)
	return nil
}

// read reads sectors and checks that none is older than what was written before.
func (s *stamped) read(first, n int) error {
	n = min(n, s.sectors-first)
	least := make([]uint64, n)
	for i := range least {
		least[i] = s.done[first+i].Load()
	}
	p := make([]byte, n*sector)
	if _, err := tryOrWait(s.file, p, int64(first)*sector); err != nil {
		return err
	}
	for i := range least {
		// A read beside a write of the same sector may have some of both, as the page cache copies: but not for long.
		one := p[i*sector : (i+1)*sector]
		count, err := stampOf(one, first+i)
		for tries := 0; err != nil && tries < 100; tries++ {
			if _, failed := tryOrWait(s.file, one, int64(first+i)*sector); failed != nil {
				return failed
			}
			count, err = stampOf(one, first+i)
		}
		if err != nil {
			return err
		}
		if count < least[i] {
			return fmt.Errorf("sector %d reads as of write %d, after write %d had returned", first+i, count, least[i])
		}
	}
	return nil
}

// waitFor does as the file system does: first without waiting.
func waitFor(op func([]byte, int64, bool) (int, error), p []byte, off int64) (int, error) {
	n, err := op(p, off, false)
	if err == ErrWait {
		return op(p, off, true)
	}
	return n, err
}

// crew runs goroutines until all end, and fails the test with the first error of any.
type crew struct {
	sync.WaitGroup
	mu    sync.Mutex
	first error
}

func (c *crew) run(times int, fn func(r *rand.Rand, i int) error) {
	seed := rand.Uint64()
	c.Go(func() {
		r := rand.New(rand.NewPCG(seed, 0))
		for i := range times {
			if err := fn(r, i); err != nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.first == nil {
					c.first = err
				}
				return
			}
		}
	})
}

func (c *crew) wait(t *testing.T) {
	t.Helper()
	c.Wait()
	require.NoError(t, c.first)
}

// Writers that share blocks, readers, flushes, snapshots, and their deletion: nothing that was written is lost, nothing
// old is read, and no snapshot changes.
func TestConcurrentWritersAndSnapshots(t *testing.T) {
	s := newStore(t, Options{MapMemory: 64 << 10, MaxOpenFiles: 5})
	openJournal(t, s)
	v := makeVM(t, s, "web")
	var files []*stamped
	const sectors, writers, rounds = 1200, 3, 300
	for i := range 2 {
		f := makeFile(t, v, fmt.Sprintf("disk%d", i), sectors*sector)
		require.NoError(t, f.Open(Handle(i+1), true))
		files = append(files, newStamped(f, sectors))
	}
	var c crew
	for _, f := range files {
		for w := range writers {
			c.run(rounds, func(r *rand.Rand, _ int) error { return f.write(r.IntN(sectors/writers)*writers + w) })
		}
		c.run(rounds, func(r *rand.Rand, _ int) error { return f.read(r.IntN(sectors), r.IntN(100)+1) })
		c.run(rounds/10, func(*rand.Rand, int) error { return f.file.Flush(true) })
	}
	c.run(25, func(r *rand.Rand, i int) error {
		return snapshotTwice(v, fmt.Sprintf("s%d", i), i > 3 && r.IntN(2) == 0)
	})
	c.run(15, func(_ *rand.Rand, i int) error { return snapshotInVain(v, fmt.Sprintf("v%d", i), i%2 == 0) })
	c.wait(t)
	for _, f := range files {
		require.NoError(t, f.read(0, sectors))
		f.file.Close(1)
		f.file.Close(2)
	}
	settle(t, s)
	s = reopen(t, s)
	for i, f := range files {
		f.file = fileNamed(t, vmNamed(t, s, "web"), fmt.Sprintf("disk%d", i))
		require.NoError(t, f.read(0, sectors))
		observe(t, f.file, f.file.FindExtent, f.file.Attr())
	}
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// snapshotTwice makes a snapshot, looks at it twice, and deletes it if it may not stay.
func snapshotTwice(v *VM, name string, temporary bool) error {
	if _, err := v.CreateSnapshot(CreateOptions{Name: name}); err != nil {
		return err
	}
	n, err := v.Snapshot(name)
	if err != nil {
		return err
	}
	for _, w := range n.Views() {
		if err := sameTwice(w); err != nil {
			return err
		}
	}
	if temporary {
		_, err = v.DeleteSnapshots([]string{name})
	}
	return err
}

// snapshotInVain prepares a snapshot of which nothing is left: because it is aborted, or worth nothing once it is there.
func snapshotInVain(v *VM, name string, abort bool) error {
	p, err := v.PrepareSnapshot(CreateOptions{Name: name})
	if err != nil {
		return err
	}
	if abort {
		p.Abort()
	} else {
		p.Swap()
		bad := errors.New("the guest was not quiet")
		if _, err := p.Seal(func() Verdict { return Verdict{Err: bad} }); !errors.Is(err, bad) {
			return fmt.Errorf("a snapshot that should have gone: %v", err)
		}
	}
	if _, err := v.Snapshot(name); Errno(err) != syscall.ENOENT {
		return fmt.Errorf("snapshot %s should not be there: %v", name, err)
	}
	return nil
}

func sameTwice(w *View) error {
	if err := w.Open(viewHandle); err != nil {
		return err
	}
	defer w.Close(viewHandle)
	first, second := make([]byte, w.Attr().Size), make([]byte, w.Attr().Size)
	if _, err := w.Read(first, 0); err != nil {
		return err
	}
	if _, err := w.Read(second, 0); err != nil {
		return err
	}
	for i := range w.Attr().Size / sector {
		a, err := stampOf(first[i*sector:(i+1)*sector], int(i))
		if err != nil {
			return err
		}
		if b, err := stampOf(second[i*sector:(i+1)*sector], int(i)); err != nil || a != b {
			return fmt.Errorf("sector %d of a snapshot was of write %d, and then %d (%v)", i, a, b, err)
		}
	}
	return nil
}

// With reverts, truncates and discards under way too, nothing fails that may not, no sector holds what nobody wrote
// there, and what is left is sound.
func TestConcurrentEverything(t *testing.T) {
	s := newStore(t, Options{MapMemory: 64 << 10, MaxOpenFiles: 3})
	openJournal(t, s)
	v := makeVM(t, s, "web")
	const sectors, rounds = 2400, 150
	f := makeFile(t, v, "disk", sectors*sector)
	require.NoError(t, f.Open(1, true))
	snapshot(t, v, "base")
	anywhere := func(r *rand.Rand) (off, n int64) {
		return r.Int64N(sectors) * sector, (1 + r.Int64N(100)) * sector
	}
	var c crew
	for range 2 {
		c.run(rounds, func(r *rand.Rand, i int) error {
			at := r.IntN(sectors)
			var p [sector]byte
			stamp(p[:], at, uint64(i+1))
			_, err := waitFor(f.Write, p[:], int64(at)*sector)
			return err
		})
		c.run(rounds, func(r *rand.Rand, _ int) error {
			off, n := anywhere(r)
			p := make([]byte, n)
			got, err := tryOrWait(f, p, off)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			for i := 0; i < got/sector; i++ {
				// A read may overlap a write: of each sector, either is one whole pwrite, but not of two.
				if at := binary.LittleEndian.Uint64(p[i*sector:]); at != 0 && at != uint64(off/sector)+uint64(i) {
					return fmt.Errorf("sector %d has what was written to %d", off/sector+int64(i), at)
				}
			}
			return nil
		})
	}
	c.run(rounds, func(r *rand.Rand, _ int) error {
		off, n := anywhere(r)
		if r.IntN(2) == 0 {
			return f.Zero(off, n, r.IntN(2) == 0)
		}
		return f.Discard(off, n)
	})
	c.run(rounds/5, func(r *rand.Rand, _ int) error {
		size := (1 + r.Int64N(sectors)) * sector
		_, err := f.SetAttr(SetAttr{Size: &size})
		return err
	})
	c.run(rounds/5, func(*rand.Rand, int) error { return f.Flush(true) })
	c.run(rounds/5, func(*rand.Rand, int) error {
		_, err := f.FindExtent(0, false)
		if Errno(err) == syscall.ENXIO {
			return nil
		}
		return err
	})
	c.run(20, func(_ *rand.Rand, i int) error {
		_, err := v.CreateSnapshot(CreateOptions{Name: fmt.Sprintf("s%d", i)})
		return err
	})
	c.run(20, func(r *rand.Rand, _ int) error {
		all := v.Snapshots()
		_, err := v.Revert(RevertOptions{Name: all[r.IntN(len(all))].Name(), Discard: r.IntN(2) == 0, Force: true})
		if Errno(err) == syscall.ENOENT { // deleted meanwhile
			return nil
		}
		return err
	})
	c.run(15, func(r *rand.Rand, _ int) error {
		all := v.Snapshots()
		if n := all[r.IntN(len(all))]; n.Name() != "base" {
			if _, err := v.DeleteSnapshots([]string{n.Name()}); err != nil && Errno(err) != syscall.ENOENT {
				return err
			}
		}
		return nil
	})
	c.wait(t)
	f.awaitVoid()
	flush(t, f)
	settle(t, s)
	before := observe(t, f, f.FindExtent, f.Attr())
	f.Close(1)
	s = reopen(t, s)
	f = fileNamed(t, vmNamed(t, s, "web"), "disk")
	requireState(t, before, observe(t, f, f.FindExtent, f.Attr()), "the disk")
	settle(t, s)
	require.Zero(t, s.Stats().ReclaimBytes)
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// A writer counts up in four files, one after the other. Whatever instant a snapshot shows, no file is ahead of the one
// before it, and none is more than one behind.
func TestSnapshotIsOneInstant(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	var files []*File
	for i := range 4 {
		files = append(files, makeFile(t, v, fmt.Sprint(i), 2*blockSize))
	}
	var stop atomic.Bool
	var c crew
	c.run(1, func(*rand.Rand, int) error {
		var p [8]byte
		for n := uint64(1); !stop.Load(); n++ {
			binary.LittleEndian.PutUint64(p[:], n)
			for i, f := range files {
				if _, err := waitFor(f.Write, p[:], int64(n)%2*blockSize); err != nil {
					return err
				}
				if n%16 == 0 && i == 2 {
					if err := f.Flush(true); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	for i := range 40 {
		snapshot(t, v, fmt.Sprintf("s%d", i))
	}
	stop.Store(true)
	c.wait(t)
	for _, n := range v.Snapshots() {
		var counts []uint64
		for i := range files {
			p := viewed(t, v, n.Name(), fmt.Sprint(i))
			counts = append(counts, max(binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[blockSize:])))
		}
		for i := 1; i < len(counts); i++ {
			require.LessOrEqual(t, counts[i], counts[i-1], "snapshot %s is torn: %v", n.Name(), counts)
		}
		require.LessOrEqual(t, counts[0], counts[len(counts)-1]+1, "snapshot %s is torn: %v", n.Name(), counts)
	}
}

// Names are moved and taken away by several at once: each VM has one name, and each name one VM.
func TestConcurrentRenames(t *testing.T) {
	s := newStore(t, Options{})
	names := []string{"a", "b", "c"}
	makeVM(t, s, "a")
	makeVM(t, s, "b")
	allowed := func(err error) error {
		switch Errno(err) {
		case 0, syscall.ENOENT, syscall.EEXIST:
			return nil
		}
		return err
	}
	var c crew
	for range 3 {
		c.run(60, func(r *rand.Rand, _ int) error {
			return allowed(s.RenameVM(names[r.IntN(3)], names[r.IntN(3)], true))
		})
		c.run(20, func(r *rand.Rand, _ int) error { return allowed(s.RemoveVM(names[r.IntN(3)])) })
		c.run(20, func(r *rand.Rand, _ int) error {
			_, err := s.CreateVM(names[r.IntN(3)], 0o755, 0, 0)
			return allowed(err)
		})
	}
	c.wait(t)
	want := requireNamesAreOneToOne(t, s)
	s = reopen(t, s)
	require.Equal(t, want, requireNamesAreOneToOne(t, s))
}

func requireNamesAreOneToOne(t *testing.T, s *Store) map[VMID]string {
	t.Helper()
	vms := make(map[VMID]string)
	for _, v := range s.VMs() {
		require.NotContains(t, vms, v.ID(), "a VM under two names")
		vms[v.ID()] = v.Name()
		require.Same(t, v, vmNamed(t, s, v.Name()))
		found, err := s.VMByID(v.ID())
		require.NoError(t, err)
		require.Same(t, v, found)
	}
	return vms
}

// A store that is closed under its users fails them, and no more.
func TestCloseUnderUse(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "disk", 64*blockSize)
	var c crew
	var started sync.WaitGroup
	var closed atomic.Bool
	use := func(op func(r *rand.Rand)) {
		started.Add(1)
		c.run(1, func(r *rand.Rand, _ int) error {
			op(r)
			started.Done()
			for !closed.Load() {
				op(r)
			}
			op(r)
			return nil
		})
	}
	use(func(r *rand.Rand) {
		_, _ = waitFor(f.Write, make([]byte, blockSize), r.Int64N(1<<30)&^(blockSize-1))
		_ = f.Flush(true)
	})
	use(func(r *rand.Rand) { _, _ = v.CreateSnapshot(CreateOptions{Name: fmt.Sprint(r.Uint64())}) })
	use(func(r *rand.Rand) {
		if all := v.Snapshots(); len(all) > 0 {
			_, _ = v.DeleteSnapshots([]string{all[0].Name()})
		}
		size := r.Int64N(1 << 20)
		_, _ = f.SetAttr(SetAttr{Size: &size})
	})
	started.Wait()
	require.NoError(t, s.Close())
	closed.Store(true)
	c.wait(t)
	require.NoError(t, s.Close(), "twice is fine")
	_, err := v.CreateSnapshot(CreateOptions{Name: "late"})
	require.Error(t, err)
	requireSound(t, s.dir)
}
