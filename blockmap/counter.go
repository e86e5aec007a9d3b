package blockmap

// This file keeps the number of the last commit outside of Badger, so that an index that has lost commits is not taken for
// a whole one. The number is written after the commit is on disk, and is not synced: after a power loss it may lag behind
// the index, and never leads. Each commit has its number inside, too, with a random identity of the index.
//
//	byte 0, byte 4096    a slot each, written in turn: identity, 16 bytes | number, 8 | crc32c of both, 4      little endian

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	slotAt   = 4096 // of the second: they never share a page
	slotSize = 16 + 8 + 4
	markSize = 16 + 8
)

// markKey is where each commit has its mark: the identity and its number. Keys of records are longer.
var markKey = []byte{recordPrefix}

// counter is the file with the two slots; nil: none is kept.
type counter struct {
	host host
	file *os.File
	mark [markSize]byte // identity and number
}

// identity is that of the index; nil: it is not known.
func (c *counter) identity() *[16]byte {
	if c == nil {
		return nil
	}
	identity := [16]byte(c.mark[:])
	return &identity
}

func (c *counter) number() uint64 { return binary.LittleEndian.Uint64(c.mark[16:]) }

// openCounter opens the file and reads it; found is false if there is none, or no slot of it is whole.
func (h host) openCounter(path string) (c *counter, found bool, err error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return &counter{host: h}, false, nil
	}
	f, err := h.open(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return &counter{host: h}, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	c = &counter{host: h, file: f}
	for at := int64(0); at <= slotAt; at += slotAt {
		var slot [slotSize]byte
		if _, err := h.readAt(f, slot[:], at); err != nil && !errors.Is(err, io.EOF) {
			return nil, false, errors.Join(err, f.Close())
		}
		if !slotSound(&slot) {
			continue
		}
		if n := binary.LittleEndian.Uint64(slot[16:]); !found || n > c.number() {
			found = true
			copy(c.mark[:], slot[:])
		}
	}
	return c, found, nil
}

// create makes the file, durably, with an identity of its own.
func (c *counter) create(path string, number uint64) error {
	_, _ = rand.Read(c.mark[:16]) // never fails
	return c.make(path, number)
}

func (c *counter) make(path string, number uint64) (err error) {
	if c.file == nil {
		c.file, err = c.host.open(path, os.O_RDWR|os.O_CREATE)
		if err != nil {
			return err
		}
	}
	if err := c.host.writeAt(c.file, make([]byte, slotAt+slotSize), 0); err != nil {
		return err
	}
	if err := c.write(number); err != nil {
		return err
	}
	if err := c.host.sync(c.file); err != nil {
		return err
	}
	return c.host.syncDir(filepath.Dir(path))
}

// ReadCounter reads the file with the number of the last commit; found is false if it is missing or no part of it is
// whole.
func ReadCounter(path string) (identity [16]byte, number uint64, found bool, err error) {
	c, found, err := host(nil).openCounter(path)
	if err != nil || !found {
		return identity, 0, false, errors.Join(err, c.close())
	}
	return [16]byte(c.mark[:]), c.number(), true, c.close()
}

// DamagedSlot is where in that file a slot is that is not whole, and was written once; -1 if there is none. Of a file that is
// made, one slot is zeros until the next commit.
func DamagedSlot(path string) (at int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	for _, at := range []int64{0, slotAt} {
		var slot [slotSize]byte
		_, err := f.ReadAt(slot[:], at)
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return -1, err
		}
		if slot != [slotSize]byte{} && !slotSound(&slot) {
			return at, nil
		}
	}
	return -1, nil
}

func slotSound(slot *[slotSize]byte) bool {
	return crc32.Checksum(slot[:markSize], castagnoli) == binary.LittleEndian.Uint32(slot[markSize:])
}

// MakeCounter makes that file anew for an index that is whole and not open. Whether commits at its end are lost is what
// only the old file knew. Of o, only Aside and Identity are used.
func MakeCounter(path, index string, o Options) error {
	x, err := Open(index, Options{Aside: o.Aside, Identity: o.Identity})
	if err != nil {
		return err
	}
	mark, err := x.mark()
	number := x.Committed()
	if err := errors.Join(err, x.Close()); err != nil {
		return err
	}
	if mark == nil {
		return fmt.Errorf("%w: it has no identity", ErrDamaged)
	}
	c := &counter{}
	copy(c.mark[:], mark)
	return errors.Join(c.make(path, number), c.close())
}

// markOf is what a commit has inside.
func (c *counter) markOf(number uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(make([]byte, 0, markSize), c.mark[:16]...), number)
}

// write notes that a commit is on disk.
func (c *counter) write(number uint64) error {
	binary.LittleEndian.PutUint64(c.mark[16:], number)
	var slot [slotSize]byte
	copy(slot[:], c.mark[:])
	binary.LittleEndian.PutUint32(slot[markSize:], crc32.Checksum(slot[:markSize], castagnoli))
	return c.host.writeAt(c.file, slot[:], int64(number%2)*slotAt)
}

func (c *counter) close() error {
	if c == nil || c.file == nil {
		return nil
	}
	return errors.Join(c.host.sync(c.file), c.file.Close())
}

// verifyCounter compares the counter with the index, and makes one for an index that has none yet.
func (x *Index) verifyCounter(path string, found bool) error {
	mark, err := x.mark()
	if err != nil {
		return err
	}
	c := x.counter
	switch {
	case !found && mark == nil:
		return c.create(path, x.committed)
	case !found:
		return noCounter(path)
	}
	if err := c.verifyMark(mark, path); err != nil {
		return err
	}
	if n := c.number(); n > x.committed { // of one that was not surveyed
		return fmt.Errorf("%w: it ends with commit %d, but commit %d was made", ErrDamaged, x.committed, n)
	}
	return nil
}

func noCounter(path string) error {
	return fmt.Errorf("%w: %s is missing or unreadable", ErrNoCounter, path)
}

// verifyMark compares the counter with the newest mark in an index.
func (c *counter) verifyMark(mark []byte, path string) error {
	if mark != nil && [16]byte(mark) != [16]byte(c.mark[:]) {
		return &ForeignError{Path: path, Index: [16]byte(mark), Other: [16]byte(c.mark[:])}
	}
	return nil
}

// Identity is what tells the index from all others; false if no counter is kept.
func (x *Index) Identity() (identity [16]byte, known bool) {
	if x.counter == nil {
		return identity, false
	}
	return *x.counter.identity(), true
}

// mark is that of the newest commit; nil if it has none.
func (x *Index) mark() ([]byte, error) {
	txn := x.readVersion(x.committed)
	defer txn.Discard()
	mark, err := (&Tx{base: txn}).Get(markKey)
	if err == nil && mark != nil && len(mark) != markSize {
		err = fmt.Errorf("%w: the mark of commit %d has %d bytes", ErrDamaged, x.committed, len(mark))
	}
	return mark, err
}
