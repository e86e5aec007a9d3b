package layer

// Saving: the file that takes a machine's memory before its snapshot is made.
//
//	commit the image, without a snapshot        crash: the start removes it
//	make its file, allocate space, fill it      crash: the same
//	commit the snapshot, still without it       crash: a snapshot of the disks, with a warning
//	sync the file, then memory/                 crash: the same
//	commit its size, and it as the snapshot's   crash: the snapshot has it

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	// imageAhead is how much of an image's file is allocated, at least, beyond what is written of it; bytes. Whoever
	// writes is faster than Grow is called, and what it takes beyond this is the reserve's.
	imageAhead = 64 << 20

	// imageStep is by how much the allocation grows at least.
	imageStep = 16 << 20
)

// Image is a machine's memory that is being saved, for a snapshot that is about to be made. Whoever asked for it
// discards it, unless CreateOptions made it a snapshot's.
type Image struct {
	store     *Store
	id        imageID
	file      *os.File
	allocated int64
	taken     bool // a snapshot has it
}

// NewImage makes a file for about size bytes, and has space for them; ENOSPC where that would eat into the reserve.
func (s *Store) NewImage(size int64) (*Image, error) {
	i := &Image{store: s, id: imageID(s.newID())}
	if err := s.images.makeDir(); err != nil {
		return nil, err
	}
	err := s.update(func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableImage, i.id), imageRecord{})
		return s.putNext(tx)
	})
	if err != nil {
		return nil, err
	}
	i.file, err = openFile(s.images.path(i.id, false), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		err = Errorf(hostErrno(err), "make a memory image: %w", err)
	} else {
		err = i.allocate(size + imageAhead)
	}
	if err != nil {
		return nil, errors.Join(err, i.Discard())
	}
	return i, nil
}

// File takes the memory, from its present offset on.
func (i *Image) File() *os.File { return i.file }

// Grow is to be called every now and then while the file is being written, with how much is still to come: it allocates
// that; ENOSPC where it would eat into the reserve. It returns how much is written, in bytes.
func (i *Image) Grow(expect int64) (written int64, err error) {
	if written, err = i.written(); err != nil {
		return 0, err
	}
	if missing := written + expect + imageAhead - i.allocated; missing > 0 {
		err = i.allocate(max(missing, imageStep))
	}
	return written, err
}

// written is the file's offset: it is one for all who have the descriptor.
func (i *Image) written() (int64, error) {
	n, err := i.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, Errorf(syscall.EIO, "look at a memory image: %w", err)
	}
	return n, nil
}

// allocate has n more bytes of space. A file system that can't do that fills the file as it is written.
func (i *Image) allocate(n int64) error {
	if err := i.store.space.take(n); err != nil {
		return Errorf(syscall.ENOSPC, "no room for the machine's memory, which takes %d MiB or more: %w", (i.allocated+n)>>20, err)
	}
	err := faulty("allocate")
	if err == nil {
		err = unix.Fallocate(int(i.file.Fd()), 0, i.allocated, n)
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return Errorf(hostErrno(err), "allocate %d MiB for the machine's memory: %w", (i.allocated+n)>>20, err)
	}
	i.allocated += n
	return nil
}

// finish makes the image durable, of the size that was written.
func (i *Image) finish() (size int64, err error) {
	if size, err = i.written(); err != nil {
		return 0, err
	}
	if size > i.allocated { // the last of it came when nobody was asked any more
		if err := i.store.space.take(0); err != nil {
			return 0, err
		}
	}
	if size == 0 {
		return 0, Errorf(syscall.EIO, "nothing was written of the machine's memory")
	}
	if err := errors.Join(i.file.Truncate(size), syncFile(i.file), syncDirectory(i.store.images.dir)); err != nil {
		return 0, Errorf(hostErrno(err), "sync the machine's memory: %w", err)
	}
	return size, nil
}

// own makes the image the snapshot's in memory, and returns what does so in the index. It comes before the commit,
// so that a commit of which nobody knows how it ended leaves the image.
func (i *Image) own(n *Snapshot, size int64) func(*blockmap.Tx) error {
	record := imageRecord{Bytes: size}
	n.snapshotRecord.Memory, n.image, i.taken = i.id, i.store.images.has(i.id, record), true
	return func(tx *blockmap.Tx) error {
		put(tx, catalogKey(tableImage, i.id), record)
		return edit(tx, catalogKey(tableSnapshot, n.id), func(r *snapshotRecord) { r.Memory = i.id })
	}
}

// Discard removes the image, unless a snapshot has it, and is to be called in any case.
func (i *Image) Discard() error {
	if i.file != nil {
		_ = i.file.Close() // it is synced, or not wanted
	}
	if i.taken {
		return nil
	}
	i.taken = true // by nobody, but gone
	return i.store.images.erase(i.id)
}
