package layer

// The journal's mark: STORE/journal.mark, how far the journal went, outside of it. A journal can't tell by itself that its
// newest records are lost, or that an older copy of it was put in its place.
//
//	write a record                          crash: it is there, and the mark does not name it yet
//	write the mark, not synced              crash: it names it; a loss of power may leave an older mark, never a newer one
//	answer the flush
//
// It has two slots, at bytes 0 and 4096, written in turn, so that one that is torn leaves the one before. A new key of the
// journal comes before the mark that names it: a mark of an older key says nothing of the records of this one, and there is
// none yet.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	markName    = journalName + ".mark"
	markSlot    = 512  // bytes: what a disk writes as a whole
	markSecond  = 4096 // where the other slot is: they never share a page
	markSum     = markSlot - 4
	markWriting = 48 // numbers that a slot takes
	markRun     = 16 + 5*8 + markWriting*8
)

// journalMark says which records are on disk.
type journalMark struct {
	id         [16]byte // the journal's
	generation uint64   // of its key
	count      uint64   // of the marks under that key; the higher one is the newer
	tail       uint64   // records before it were not needed
	next       uint64   // those before it were on disk
	unfinished int      // but for so many,
	writing    [markWriting]uint64
	run        hostRun // in which the key was made: no record of an earlier one was needed then
}

// newer says whether m was made after another one of the same journal.
func (m *journalMark) newer(other *journalMark) bool {
	if m.generation != other.generation {
		return m.generation > other.generation
	}
	return m.count > other.count
}

// missing lists the records from number known on that were on disk, and needed, and are not among those that a journal with
// the key of a generation has.
func (m *journalMark) missing(generation uint64, have map[uint64]bool, known uint64) (lost []uint64) {
	if m.generation < generation {
		return nil
	}
	for n := max(m.tail, known); n < m.next; n++ {
		if !have[n] && !slices.Contains(m.writing[:m.unfinished], n) {
			lost = append(lost, n)
		}
	}
	return lost
}

func (m *journalMark) encode(p []byte) {
	b := append(p[:0:markSlot], m.id[:]...)
	for _, v := range []uint64{m.generation, m.count, m.tail, m.next, uint64(m.unfinished)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, n := range m.writing[:m.unfinished] {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	clear(p[len(b):markSum])
	copy(p[markRun:], m.run[:])
	binary.LittleEndian.PutUint32(p[markSum:], crc32.Checksum(p[:markSum], castagnoli))
}

// decodeMark is false for a slot that is damaged.
func decodeMark(p []byte) (m journalMark, ok bool) {
	u := func(i int) uint64 { return binary.LittleEndian.Uint64(p[16+8*i:]) }
	if crc32.Checksum(p[:markSum], castagnoli) != binary.LittleEndian.Uint32(p[markSum:]) || u(4) > markWriting {
		return m, false
	}
	m = journalMark{id: [16]byte(p), generation: u(0), count: u(1), tail: u(2), next: u(3), unfinished: int(u(4)), run: hostRun(p[markRun:])}
	for i := range m.unfinished {
		m.writing[i] = u(5 + i)
	}
	return m, m.next-m.tail <= 1<<20 // more records than a journal has slots
}

// markFile is the open file. Its lock is held for one write to the page cache, and with no other.
type markFile struct {
	mu      sync.Mutex
	file    *os.File
	last    journalMark // that was written
	slot    int64       // of the next one
	p       []byte
	settled uint64 // the count of the last one that was handed to the disk
}

// errMark says that nobody knows how far the journal went.
type errMark string

func (e errMark) Error() string {
	return string(e) + ", so that nobody knows whether the newest records of the journal are lost"
}

func (e errMark) Unwrap() error { return errJournal }

// openMark opens the file in dir, and makes it where that is asked for.
func openMark(dir string, create int) (*markFile, error) {
	path := filepath.Join(dir, markName)
	f, err := openFile(path, unix.O_RDWR|unix.O_NOFOLLOW|create)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errMark(markName + " is missing")
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return nil, errMark(markName + " is no file")
	case err != nil:
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(errMark(markName+" is no file"), err, f.Close())
	}
	return &markFile{file: f, p: make([]byte, markSlot)}, nil
}

// read finds the newest mark of a journal. sound says which of the slots are.
func (f *markFile) read(id [16]byte) (m journalMark, sound [2]bool, err error) {
	foreign := false
	for i := range sound {
		if err := readAt(f.file, f.p, int64(i)*markSecond); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EIO) {
				continue
			}
			return m, sound, err
		}
		next, ok := decodeMark(f.p)
		if ok && next.id != id {
			foreign, ok = true, false
		}
		if sound[i] = ok; ok && next.newer(&m) {
			m, f.slot = next, int64(1-i)*markSecond
		}
	}
	switch {
	case sound[0] || sound[1]:
		f.last = m
		return m, sound, nil
	case foreign:
		return m, sound, errMark(markName + " is that of another journal")
	}
	return m, sound, errMark(markName + " is damaged")
}

// begin writes the first mark under a new key to both slots. It is durable when it returns.
func (f *markFile) begin(m journalMark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.encode(f.p)
	for _, at := range []int64{0, markSecond} {
		if err := writeAt(f.file, f.p, at); err != nil {
			return fmt.Errorf("write %s: %w", f.file.Name(), err)
		}
	}
	f.last, f.settled = m, m.count
	return syncFile(f.file)
}

// write has a mark, or a newer one, in the page cache.
func (f *markFile) write(m *journalMark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !m.newer(&f.last) {
		return nil
	}
	m.id, m.run = f.last.id, f.last.run
	m.encode(f.p)
	if err := writeAt(f.file, f.p, f.slot); err != nil {
		return fmt.Errorf("write %s: %w", f.file.Name(), err)
	}
	f.last, f.slot = *m, markSecond-f.slot
	return nil
}

// handOn has the disk write what it was not given yet, so that after a power loss the mark is not as old as what the kernel
// would have kept to itself. It waits for nothing, and an error of it is no loss.
func (f *markFile) handOn() {
	f.mu.Lock()
	moved := f.last.count != f.settled
	f.settled = f.last.count
	f.mu.Unlock()
	if moved {
		_ = syncRange(int(f.file.Fd()), extent{0, markSecond + markSlot}, unix.SYNC_FILE_RANGE_WRITE)
	}
}

func (f *markFile) close() {
	if f != nil {
		_ = f.file.Close()
	}
}
