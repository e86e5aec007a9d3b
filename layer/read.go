package layer

// Reading: one lookup a run of blocks, one pread a run of one layer.

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// Read fills p from off, and returns how many bytes it read: fewer than asked only at the file's end, none past it.
func (f *File) Read(p []byte, off int64) (int, error) {
	f.vm.turns.take()
	defer f.vm.turns.giveBack()
	for {
		st := f.state.Load()
		n, err := f.vm.store.read(st.chain.Map, f.size.Load(), p, off)
		if err == nil || f.state.Load() == st {
			return n, err
		}
		// A revert took the map away meanwhile: read what it brought.
	}
}

// TryRead is Read that returns ErrWait rather than wait for the disk. What it read is in p, or, if anything is lent, in memory
// that is good until the loan is given back.
func (f *File) TryRead(p []byte, off int64) (data []byte, lent Loan, err error) {
	for {
		st := f.state.Load()
		data, lent, err = f.vm.store.tryRead(st.chain, f.size.Load(), p, off)
		if err == nil || err == ErrWait || f.state.Load() == st {
			return data, lent, err
		}
	}
}

// Loan is memory of the store's that somebody looks at. Nothing that lies there is freed before it is given back. The zero Loan is
// none.
type Loan struct {
	epochs *epochs
	slot   int
}

// Any says whether there is something to give back.
func (l Loan) Any() bool { return l.epochs != nil }

// GiveBack ends the loan.
func (l Loan) GiveBack() { l.epochs.leave(l.slot) }

// within cuts p, which is to be read at off, at a file's end.
func within(p []byte, off, size int64) ([]byte, error) {
	if off < 0 {
		return nil, Errorf(syscall.EINVAL, "read at %d", off)
	}
	return p[:min(int64(len(p)), max(0, size-off))], nil
}

func (s *Store) read(m *blockmap.Map, size int64, p []byte, off int64) (int, error) {
	p, err := within(p, off, size)
	if err != nil {
		return 0, err
	}
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	s.readAhead(m, len(p), off)
	return len(p), s.readChain(m, p, off, true)
}

// readAhead has the disk read n bytes at off, if they are of several runs, of all these at once, so that the reads to come wait
// for all of them together. The kernel reads ahead in one file and knows nothing of the next. What goes wrong is left to those
// reads to find.
func (s *Store) readAhead(m *blockmap.Map, n int, off int64) {
	for whole := n; n > 0; {
		owner, run, err := run(m, off, n, true)
		if err != nil || run == whole {
			return
		}
		if lay := s.tree.layer(owner); owner != 0 && lay != nil && lay.lost == nil {
			if fd, err := s.data.open(lay, false); err == nil {
				_ = unix.Fadvise(fd, off, int64(run), unix.FADV_WILLNEED)
			}
		}
		n, off = n-run, off+int64(run)
	}
}

func (s *Store) tryRead(chain *chainMap, size int64, p []byte, off int64) (data []byte, lent Loan, err error) {
	if p, err = within(p, off, size); err != nil || len(p) == 0 {
		return nil, Loan{}, err
	}
	loan := Loan{&s.epochs, s.epochs.enter()}
	if data = s.data.windows.find(chain, off, len(p)); data != nil {
		return data, loan, nil
	}
	defer loan.GiveBack()
	if err = s.readChain(chain.Map, p, off, false); err == nil {
		s.data.windows.ask(chain, off)
	}
	return p, Loan{}, err
}

// readChain fills p, which lies within the file, in an epoch. Without wait it returns ErrWait rather than wait for the disk.
func (s *Store) readChain(m *blockmap.Map, p []byte, off int64, wait bool) error {
	for len(p) > 0 {
		owner, n, err := run(m, off, len(p), wait)
		if err != nil {
			return err
		}
		if err := s.readRun(owner, p[:n], off, wait); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// run finds the owner of the block at off and how many of the next max bytes it owns.
func run(m *blockmap.Map, off int64, max int, wait bool) (owner LayerID, n int, err error) {
	block := uint64(off) / blockSize
	blocks := uint64(off+int64(max)-1)/blockSize - block + 1
	for {
		owner, got, ok := m.Run(block, blocks)
		if ok {
			return owner, min(max, int(int64(block+got)*blockSize-off)), nil
		}
		if !wait {
			return 0, 0, ErrWait
		}
		if err := m.Load(block / blockmap.RegionBlocks); err != nil {
			return 0, 0, Errorf(syscall.EIO, "load the map: %w", err)
		}
	}
}

func (s *Store) readRun(owner LayerID, p []byte, off int64, wait bool) error {
	if owner == 0 {
		clear(p)
		return nil
	}
	lay := s.tree.layer(owner)
	if lay == nil {
		return Errorf(syscall.EIO, "the map names %s, which is gone", layerName(owner))
	}
	if lay.lost != nil {
		if err := lay.refuseLost(off, int64(len(p))); err != nil {
			return err
		}
	}
	fd, err := s.data.open(lay, false)
	if err != nil {
		return err
	}
	if s.opts.Verify && lay.summed.Load() {
		if !wait {
			return ErrWait
		}
		return s.readVerified(fd, lay, p, off)
	}
	if !wait {
		return readCached(fd, p, off)
	}
	return readBlocks(fd, lay, p, off)
}

// readCached reads what the page cache has, and returns ErrWait for anything else, errors included.
func readCached(fd int, p []byte, off int64) error {
	vec := unix.Iovec{Base: &p[0], Len: uint64(len(p))}
	// Not past the scheduler: the kernel starts to read ahead of what it does not have, and for that it may wait for a place
	// in the disk's queue.
	n, _, _ := syscall.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&vec)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	if int(n) != len(p) {
		return ErrWait
	}
	return nil
}
