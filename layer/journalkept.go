package layer

// What the journal has of layers that can't be flushed any more is needed until the next start, which writes it back, and
// would hold up the ring for all others. So it is moved to a file of its own: STORE/journal.kept, of the journal's headers,
// and records one behind the other up to the file's end.
//
//	write it under another name, sync, rename,
//	sync the directory                           crash: the index does not ask for it, or it has all that the one before had
//	commit that it is there                      crash: what it has is in the ring, too
//	use the records' slots again
//
// When the ring is begun anew, and none of those layers is there any more, or it was flushed:
//
//	commit that it is not there                  crash: nobody asks for it
//	remove it

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const keptName = journalName + ".kept"

// errKept is damage to that file.
type errKept string

func (e errKept) Error() string {
	return keptName + " " + string(e) + ", and with it what guests had flushed to layers that failed afterwards"
}

func (e errKept) Unwrap() error { return errJournal }

// writeKept writes the file for a journal, in the place of any other.
func writeKept(dir string, id [16]byte, records []journalRecord) (err error) {
	j := &journalFile{id: id, generation: 1}
	_, _ = rand.Read(j.key[:])
	path := filepath.Join(dir, keptName)
	f, err := openFile(path+".tmp", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	off := int64(0)
	write := func(p []byte) {
		if err == nil {
			err = writeAt(f, p, off)
			off += int64(len(p))
		}
	}
	for range journalHeaders {
		write(j.header())
	}
	for _, r := range records {
		p := make([]byte, blockSize, blockSize+len(r.data))
		p = append(p, r.data...)
		j.seal(p, &r)
		write(p)
	}
	if err = errors.Join(err, syncFile(f), f.Close()); err == nil {
		err = rename(path+".tmp", path)
	}
	if err != nil {
		_ = unix.Unlink(path + ".tmp")
		return err
	}
	return syncDirectory(dir)
}

// loadKept reads the file of a journal, all of it.
func loadKept(dir, id string) ([]journalRecord, error) {
	path := filepath.Join(dir, keptName)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errKept("is missing")
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size()%blockSize != 0 || info.Size() < journalHeaders*blockSize || info.Size() > 1<<32:
		return nil, errKept("is damaged")
	}
	f, err := openFile(path, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mem := make([]byte, info.Size())
	if err := readAt(f, mem, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", errKept("can't be read"), err)
	}
	j := &journalFile{slots: len(mem) / blockSize}
	if err := j.readHeaders(mem); err != nil || hex.EncodeToString(j.id[:]) != id {
		return nil, errKept("is damaged")
	}
	records, slots := j.find(mem), journalHeaders
	for _, r := range records {
		slots += 1 + len(r.blocks)
	}
	if slots != j.slots {
		return nil, errKept("is damaged")
	}
	return records, nil
}

// withKept adds records that were moved out of the ring. Some may still be in there.
func withKept(records, kept []journalRecord) []journalRecord {
	all := append(slices.Clone(kept), records...)
	slices.SortStableFunc(all, func(a, b journalRecord) int { return int(int64(a.number - b.number)) })
	return slices.CompactFunc(all, func(a, b journalRecord) bool { return a.number == b.number })
}

// commitOldest has committed what holds up the ring, and moves away what can't be.
func (s *Store) commitOldest(run func(func())) {
	var failed []LayerID
	for _, id := range s.journal.oldest() {
		if s.session.hasFailed(id) && s.tree.layer(id) != nil {
			failed = append(failed, id)
			continue
		}
		run(func() { s.commitJournaled(id) })
	}
	if len(failed) == 0 {
		return
	}
	again := func() {
		for _, id := range failed {
			s.journal.done(id)
		}
		s.journal.ask()
	}
	if err := s.keepRecords(failed); err != nil {
		s.opts.Event("", "journal-held-up", "error", err.Error())
		time.AfterFunc(journalPause, again)
		return
	}
	again()
}

// keepRecords moves what the ring has of layers, no flush of which may succeed any more.
func (s *Store) keepRecords(failed []LayerID) error {
	j := s.journal
	for _, id := range failed {
		if l := s.tree.layer(id); l != nil {
			if w := l.writer(); w != nil { // a record of it that is being written comes first; there will be no other
				w.flushing.Lock()
				w.written.overflow()
				w.flushing.Unlock()
			}
		}
	}
	records, err := j.read(failed)
	if err != nil {
		return err
	}
	if len(j.kept) > 0 {
		kept, err := loadKept(s.dir, hex.EncodeToString(j.file.id[:]))
		if err != nil {
			return err
		}
		kept = slices.DeleteFunc(kept, func(r journalRecord) bool { return s.tree.layer(r.layer) == nil })
		records = withKept(records, kept)
	}
	before := j.position()
	if err := writeKept(s.dir, j.file.id, records); err != nil {
		return err
	}
	if err := s.setKept(true); err != nil {
		return err
	}
	j.kept = make(map[uint64]LayerID, len(records))
	for _, r := range records {
		j.kept[r.number] = r.layer
	}
	for _, id := range failed {
		j.settle(id, before)
	}
	return nil
}

func (s *Store) setKept(kept bool) error {
	return s.update(func(tx *blockmap.Tx) error {
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.JournalKept = kept })
	})
}

// dropKept removes the file once nobody needs it: all of the ring has been committed, or is of layers that failed.
func (s *Store) dropKept() error {
	j := s.journal
	if len(j.kept) == 0 {
		return nil
	}
	for _, id := range j.kept {
		if s.session.hasFailed(id) && s.tree.layer(id) != nil {
			return nil
		}
	}
	if err := s.setKept(false); err != nil {
		return err
	}
	j.kept = nil
	return removeFile(filepath.Join(s.dir, keptName))
}

// read reads the records of layers that the ring has and that are needed. None of them is being written any more: those that count as
// such have failed, and were promised to nobody.
func (j *journal) read(layers []LayerID) (records []journalRecord, err error) {
	j.mu.Lock()
	var wanted []liveRecord
	for _, r := range j.live {
		if slices.Contains(layers, r.layer) && j.kept[r.number] == 0 && !slices.Contains(j.writing, r.number) {
			wanted = append(wanted, r)
		}
	}
	j.mu.Unlock()
	for _, r := range wanted {
		got, err := j.file.readRecord(r.at)
		if err != nil {
			return nil, err
		}
		if got.number != r.number || got.layer != r.layer {
			return nil, fmt.Errorf("%w: record %d can't be read", errJournal, r.number)
		}
		records = append(records, got)
	}
	return records, nil
}

// readRecord reads the record at a slot; it has number 0 if there is none.
func (j *journalFile) readRecord(slot int) (journalRecord, error) {
	blocks := min(1+journalBlocks, j.slots-slot)
	mem, err := alignedMemory(blocks)
	if err != nil {
		return journalRecord{}, err
	}
	defer unix.Munmap(mem)
	for off := 0; off < len(mem); {
		n, err := pread(j.fd, mem[off:], int64(slot)*blockSize+int64(off))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: it ends within slot %d", errJournal, slot)
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return journalRecord{}, err
		}
		off += max(n, 0)
	}
	r, ok := j.record(slices.Clone(mem))
	if !ok {
		return journalRecord{}, nil
	}
	return r, nil
}
