package layer

// The journal's file: STORE/journal, of one size for ever, in slots of a block. Its blocks are written when it is made, so
// that a write to it is one in place, and it is open so that a write returns when it is on disk.
//
//	slots 0, 1   the header, twice
//	the rest     a ring of records: a slot that says what it is, and after it a slot for each block that it carries
//
// Making it: written under another name, synced, renamed, its mark made, and both named in the index; before that it counts
// as missing. Making the key anew, when no record is needed any more, one header after the other: whichever a crash or damage
// leaves will do; and after that the mark.

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	journalName    = "journal"
	journalMagic   = "snapfsj1"
	journalHeaders = 2  // slots
	journalBlocks  = 32 // that a record carries, at most
	journalHead    = 8 + 16 + 8 + 16 + 8
	journalFixed   = 16 + 5*8 + 2*4 // bytes of a record before the numbers of its blocks
)

// journalSlots is how many slots a new journal has: 16 MiB. Only tests change it, while no store is open.
var journalSlots = 4096

// journalFile is an open one. The key is in every record: what guests write, which is in the ring too, can't be taken for
// a record, as they don't know it.
type journalFile struct {
	fd         int
	slots      int
	id         [16]byte // what the index knows the file by
	generation uint64   // of the key
	key        [16]byte
	first      uint64 // no record has a lower number
	next       uint64 // of those that were there when it was read, none has this number or a higher one

	dir    string
	mark   *markFile
	marked bool               // the index knows of it
	kept   map[uint64]LayerID // numbers of records that are in journal.kept

	worn []string // what of the headers, and the mark, is damaged, and there a second time
}

// errJournal is damage to the journal.
var errJournal = errors.New("the journal is damaged")

// journalMissing is the path where it should be.
type journalMissing string

func (m journalMissing) Error() string {
	return string(m) + " is missing, and with it what guests may have flushed just before a crash"
}

func (m journalMissing) Unwrap() error { return errJournal }

// makeJournal makes the file in dir, in the place of any other.
func makeJournal(dir string, slots int, first uint64) (*journalFile, error) {
	j := &journalFile{slots: slots, first: first, generation: 1, dir: dir}
	_, _ = rand.Read(j.id[:]) // never fails
	_, _ = rand.Read(j.key[:])
	path := filepath.Join(dir, journalName)
	f, err := openFile(path+".tmp", unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	chunk := make([]byte, min(1<<20, slots*blockSize))
	for off := 0; off < slots*blockSize && err == nil; {
		var n int
		n, err = pwrite(int(f.Fd()), chunk[:min(len(chunk), slots*blockSize-off)], int64(off))
		off += n
	}
	for i := 0; i < journalHeaders && err == nil; i++ {
		_, err = pwrite(int(f.Fd()), j.header(), int64(i*blockSize))
	}
	if err = errors.Join(err, syncFile(f), f.Close()); err != nil {
		_ = unix.Unlink(path + ".tmp") // a full file system has better use for it
		return nil, err
	}
	if err := rename(path+".tmp", path); err != nil {
		return nil, err
	}
	err = j.beginMark() // its name is made durable together with the journal's
	if err == nil {
		err = j.open(path)
	}
	if err != nil {
		j.mark.close()
		return nil, err
	}
	return j, nil
}

// beginMark has the mark name the present key, under which there are no records. It makes the mark where there is none yet.
func (j *journalFile) beginMark() (err error) {
	if j.mark == nil {
		if j.mark, err = openMark(j.dir, unix.O_CREAT); err != nil {
			return err
		}
	}
	err = j.mark.begin(journalMark{id: j.id, generation: j.generation, tail: j.first, next: j.first, run: thisRun(j.dir)})
	if err == nil && !j.marked {
		err = syncDirectory(j.dir)
	}
	return err
}

// open opens the file past the page cache, where the file system can.
func (j *journalFile) open(path string) (err error) {
	flags := unix.O_RDWR | unix.O_DSYNC | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOATIME
	if err = faulty("open"); err != nil {
		return err
	}
	j.fd, err = unix.Open(path, flags|unix.O_DIRECT, 0)
	switch {
	case errors.Is(err, unix.EINVAL):
		j.fd, err = unix.Open(path, flags, 0)
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		err = fmt.Errorf("%w: it is no file", errJournal)
	}
	return err
}

func (j *journalFile) close() {
	_ = unix.Close(j.fd)
	j.mark.close()
}

// loadJournal opens the file in dir and reads it, and its mark, if it has one. The records that it has under its present key
// come by number; release frees what their data are in. Without a file: unix.ENOENT; damaged: errJournal, where it is a
// journalGap only if the index does not know of it, and an errMark if it is the mark.
func loadJournal(dir string, r storeRecord) (j *journalFile, records []journalRecord, release func(), err error) {
	j = &journalFile{dir: dir, marked: r.JournalMark}
	if err := j.open(filepath.Join(dir, journalName)); err != nil {
		return nil, nil, nil, err
	}
	records, release, err = j.load(r)
	if err != nil {
		j.close()
		return nil, nil, nil, err
	}
	return j, records, release, nil
}

func (j *journalFile) load(r storeRecord) ([]journalRecord, func(), error) {
	var st unix.Stat_t
	if err := unix.Fstat(j.fd, &st); err != nil {
		return nil, nil, err
	}
	j.slots = int(st.Size / blockSize)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, nil, fmt.Errorf("%w: it is no file", errJournal)
	case st.Size%blockSize != 0 || j.slots <= journalHeaders+journalBlocks || j.slots > 1<<20:
		return nil, nil, errLength(st.Size)
	}
	mem, err := alignedMemory(j.slots)
	if err != nil {
		return nil, nil, err
	}
	release := func() { _ = unix.Munmap(mem) }
	err = j.readAll(mem)
	if err == nil {
		err = j.readHeaders(mem)
	}
	if err == nil && hex.EncodeToString(j.id[:]) != r.Journal {
		err = fmt.Errorf("%w: it is that of another store", errJournal)
	}
	var mark journalMark
	if err == nil && j.marked {
		mark, err = j.readMark()
	}
	var records []journalRecord
	if err == nil {
		records = j.find(mem)
		j.next = max(j.first, mark.next)
		if n := len(records); n > 0 {
			j.next = max(j.next, records[n-1].number+1)
		}
		err = j.whole(records, &mark, r.JournalGap)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return records, release, nil
}

// alignedMemory is memory of so many blocks, from a page on.
func alignedMemory(blocks int) ([]byte, error) {
	return unix.Mmap(-1, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func (j *journalFile) readAll(mem []byte) error {
	for off := 0; off < len(mem); {
		n, err := pread(j.fd, mem[off:min(off+1<<20, len(mem))], int64(off))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: it ends at byte %d", errJournal, off)
		}
		switch {
		case errors.Is(err, unix.EIO):
			return fmt.Errorf("%w: byte %d: %w", errJournal, off, err)
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
		off += max(n, 0)
	}
	return nil
}

// header is a slot with the header.
func (j *journalFile) header() []byte {
	p := append(make([]byte, 0, blockSize), journalMagic...)
	p = append(p, j.id[:]...)
	p = binary.LittleEndian.AppendUint64(p, j.generation)
	p = append(p, j.key[:]...)
	p = binary.LittleEndian.AppendUint64(p, j.first)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
	return p[:blockSize]
}

// readHeaders takes the newer of those that are sound. Where they differ, the newer one has no records yet, and those of
// the older one are not needed any more.
func (j *journalFile) readHeaders(mem []byte) error {
	for i := range journalHeaders {
		p := mem[i*blockSize:]
		if string(p[:8]) != journalMagic || crc32.Checksum(p[:journalHead], castagnoli) != binary.LittleEndian.Uint32(p[journalHead:]) {
			j.worn = append(j.worn, fmt.Sprintf("its header at byte %d", i*blockSize))
			continue
		}
		if generation := binary.LittleEndian.Uint64(p[24:]); generation > j.generation {
			j.generation, j.first = generation, binary.LittleEndian.Uint64(p[48:])
			copy(j.id[:], p[8:])
			copy(j.key[:], p[32:])
		}
	}
	if j.generation == 0 {
		return fmt.Errorf("%w: neither of its headers can be read", errJournal)
	}
	return nil
}

func (j *journalFile) readMark() (m journalMark, err error) {
	if j.mark, err = openMark(j.dir, 0); err != nil {
		return m, err
	}
	m, sound, err := j.mark.read(j.id)
	for i, ok := range sound {
		if !ok {
			j.worn = append(j.worn, fmt.Sprintf("the slot of %s at byte %d", markName, i*markSecond))
		}
	}
	return m, err
}

// mend writes both headers anew, as the sound one is, and both slots of the mark.
func (j *journalFile) mend() error {
	if err := j.writeHeaders(); err != nil || j.mark == nil {
		return err
	}
	return j.mark.begin(j.mark.last)
}

// renew makes all records void: those to come have another key, and numbers from first on.
func (j *journalFile) renew(first uint64) error {
	j.generation, j.first = j.generation+1, first
	if j.mark != nil { // one that is ahead is of a copy that was newer
		j.generation = max(j.generation, j.mark.last.generation+1)
	}
	_, _ = rand.Read(j.key[:])
	if err := j.writeHeaders(); err != nil {
		return err
	}
	return j.beginMark()
}

func (j *journalFile) writeHeaders() error {
	mem, err := alignedMemory(1)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	copy(mem, j.header())
	for i := range journalHeaders {
		if err := j.write(mem, i); err != nil {
			return err
		}
	}
	return nil
}

// write returns when p, of whole slots and in aligned memory, is on disk.
func (j *journalFile) write(p []byte, slot int) error {
	if err := faulty("sync"); err != nil {
		return err
	}
	off := int64(slot) * blockSize
	for len(p) > 0 {
		n, err := pwrite(j.fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			err = syscall.EIO
			fallthrough
		case err != nil:
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
