package layer

// What the store does with its journal: flushes to it, commits what it has, and goes on with it after a start.

import (
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// flushToJournal has the journal make durable what was written to a head, if that is little. It returns nil when that is so;
// errLater if done will be called, with nil or errNoRecord, as submit does; and errNoRecord if the flush has to commit, or to sync
// where nothing is to be committed. The caller holds flushing, until then.
func (f *File) flushToJournal(l *layer, w *headState, done func(error)) error {
	s := f.vm.store
	if w.gone || w.failed.Load() || !w.journaled && !f.uncommitted(w) {
		return errNoRecord
	}
	if !s.journal.open.Load() {
		s.journal.ask()
		return errNoRecord
	}
	if !w.recorded || f.size.Load() != w.saved.size || f.voiding.Load() != nil {
		return errNoRecord
	}
	blocks, all := w.written.take()
	if !all {
		return errNoRecord
	}
	if len(blocks) == 0 {
		return nil // what was written is in the journal already
	}
	w.journaled = true
	w.habit.Store(0)
	written := func(err error) error {
		if err == nil {
			return nil
		}
		w.written.overflow()
		if !errors.Is(err, errNoRecord) && !s.journal.told.Swap(true) {
			s.work.start(func() { s.opts.Event("", "journal-failed", "error", err.Error()) }) // slower from here on, no more
		}
		return errNoRecord
	}
	err := s.journal.submit(l.id, blocks, func(data []byte) error { return s.readWritten(l, blocks, data) }, func(err error) { done(written(err)) })
	if err != nil {
		return written(err)
	}
	return errLater
}

// readWritten reads blocks of a layer's data file, which were just written to it.
func (s *Store) readWritten(l *layer, blocks []uint64, data []byte) error {
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	fd, err := s.data.open(l, false)
	for i := 0; i < len(blocks) && err == nil; i++ {
		err = readBlocks(fd, l, data[i*blockSize:(i+1)*blockSize], int64(blocks[i])*blockSize)
	}
	return err
}

// journalPause is how long nothing is tried with a journal that could not be opened. Tests don't have that long.
var journalPause = 10 * time.Second

// keepJournal commits what the journal has before it is full, and opens it when it is needed for the first time.
func (s *Store) keepJournal() {
	var flushes sync.WaitGroup
	defer flushes.Wait()
	for {
		select {
		case <-s.stop:
			return
		case <-s.journal.wake:
		}
		s.commitOldest(flushes.Go)
		if !s.journal.drained() || s.format.Load() < formatJournal {
			continue // one that is not open: not before its last record has been committed, which wakes this
		}
		if err := s.openJournal(); err != nil {
			if Errno(err) != syscall.ENOSPC {
				s.opts.Event("", "journal-failed", "error", err.Error())
			}
			if errors.Is(err, blockmap.ErrFailed) {
				return // the index may name the file already: no other one may take its place
			}
			select {
			case <-s.stop:
			case <-time.After(journalPause):
			}
		}
	}
}

// commitJournaled commits what the journal has of a layer. Most of what that takes is done while guests flush on.
func (s *Store) commitJournaled(id LayerID) {
	defer func() {
		s.journal.done(id)
		if s.session.hasFailed(id) {
			s.journal.ask() // it is to be moved out of the way
		}
	}()
	l := s.tree.layer(id)
	if l == nil {
		s.journal.forget(id)
		return
	}
	s.tree.RLock()
	f := l.owner
	s.tree.RUnlock()
	if f == nil || l.writer() == nil {
		return // a snapshot is sealing it, and commits it
	}
	s.writeAhead(l)
	_ = f.Commit(true) // it tells by itself
}

// writeAhead writes a layer's data, so that the flush to come finds little to do. It has a descriptor of its own: each hears
// once of an error, so the flush does, too.
func (s *Store) writeAhead(l *layer) {
	slot := s.epochs.enter()
	defer s.epochs.leave(slot)
	if fd, err := openAt(s.data.dirFD, fileName(l.id), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW); err == nil {
		_ = writeBack(fd)
		_ = unix.Close(fd)
	}
}

// openJournal makes the journal if there is none, and lets flushes use it. No record in it is needed.
//
//	make the file, and its mark          crash: they are not the index's, and made again
//	commit its identity                  crash: it is there, without a record
//
// That of an earlier version has no mark:
//
//	make the key anew, and the mark      crash: nobody asks for the mark, and it is made again
//	commit that there is one             crash: it is there, and there is no record
func (s *Store) openJournal() error {
	j := s.journal
	if j.file != nil {
		if err := j.file.renew(j.position()); err != nil {
			return err
		}
		if err := errorOf(s.nameJournal(j.file), s.dropKept()); err != nil {
			return err
		}
		j.start(j.file)
		return nil
	}
	if err := s.space.take(int64(journalSlots) * blockSize); err != nil {
		return err
	}
	file, err := makeJournal(s.dir, journalSlots, j.position())
	if err != nil {
		return Errorf(hostErrno(err), "make the journal: %w", err)
	}
	if err := s.nameJournal(file); err != nil {
		file.close()
		return err
	}
	j.start(file)
	return nil
}

// nameJournal has the index know the journal, and that it has a mark.
func (s *Store) nameJournal(file *journalFile) error {
	if file.marked {
		return nil
	}
	err := s.update(func(tx *blockmap.Tx) error {
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) {
			r.Journal, r.JournalMark = hex.EncodeToString(file.id[:]), true
		})
	})
	file.marked = err == nil
	return err
}

// markPause is how long the journal's mark is kept from the disk at most.
const markPause = time.Second

// keepMark has the disk write the mark while it moves.
func (s *Store) keepMark() {
	tick := time.NewTicker(markPause)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.journal.handOnMark()
	}
}

// resumeJournal goes on from a journal. After a crash of the host its blocks are written to their layers. A worker that takes
// over finds there what it has, or what is newer. Then its layers are flushed, in the background.
func (s *Store) resumeJournal(c *catalog, records []journalRecord) error {
	j := s.journal
	if c.store.Journal == "" {
		return nil
	}
	replayed := make(map[*File]int)
	for _, r := range records {
		l := s.tree.layer(r.layer)
		if l == nil || l.owner == nil || r.number < c.layers[r.layer].Journal {
			continue
		}
		if !s.resumes {
			if err := l.owner.writeAgain(r); err != nil {
				return l.owner.notWrittenBack(l, err)
			}
			replayed[l.owner] += len(r.blocks)
		}
		w := l.writer()
		w.journaled = true
		w.written.overflow()
		if _, kept := j.kept[r.number]; !kept || !w.failed.Load() {
			j.note(r)
		}
	}
	for f, blocks := range replayed {
		s.opts.Event(f.vm.Name(), "written-again", "file", f.Name(), "blocks", blocks)
	}
	j.ask()
	return nil
}

// logLost has the log say what a repair could not save. A crash before it is forgotten has it said twice.
func (s *Store) logLost(c *catalog) error {
	if len(c.store.Lost) == 0 {
		return nil
	}
	for _, f := range c.store.Lost {
		vm, _, _ := strings.Cut(f.Object, "/")
		if s.vmsByName[vm] == nil {
			vm = ""
		}
		s.opts.Event(vm, "flushes-lost", "object", f.Object, "what", f.Text)
	}
	return s.update(func(tx *blockmap.Tx) error {
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.Lost = nil })
	})
}

// readJournal reads the journal, before a start cleans anything up: where it is refused, what is there is left to a repair.
// release frees the records.
func (s *Store) readJournal(c *catalog) (records []journalRecord, release func(), err error) {
	j := s.journal
	j.next = max(j.next, c.store.JournalGap)
	for _, l := range c.layers {
		j.next = max(j.next, l.Journal)
	}
	if c.store.Journal == "" {
		return nil, func() {}, nil
	}
	file, records, release, err := findJournal(s.dir, c.store)
	if err != nil {
		return nil, nil, Errorf(Errno(err), "%w%s", err, journalRemedy(s.dir, err))
	}
	j.file, j.kept = file, file.kept
	j.next = max(j.next, file.next)
	return records, release, nil
}

// findJournal loads the journal that a store's index names.
func findJournal(dir string, r storeRecord) (*journalFile, []journalRecord, func(), error) {
	if err := r.refuseLinkedJournal(dir); err != nil {
		return nil, nil, nil, err
	}
	file, records, release, err := loadJournal(dir, r)
	if err == nil && r.JournalKept {
		var kept []journalRecord
		if kept, err = loadKept(dir, r.Journal); err != nil {
			file.close()
			release()
		} else {
			file.kept = make(map[uint64]LayerID)
			for _, r := range kept {
				file.kept[r.number] = r.layer
			}
			records = withKept(records, kept)
		}
	}
	path := filepath.Join(dir, journalName)
	switch {
	case errors.Is(err, unix.ENOENT):
		err = Errorf(syscall.EIO, "%w", journalMissing(path))
	case err != nil:
		err = Errorf(syscall.EIO, "read %s: %w", path, err)
	}
	return file, records, release, err
}

// writeAgain writes a record's blocks to the head, as if it were a guest's. Nobody else is there yet. Room is not asked for:
// this was promised.
func (f *File) writeAgain(r journalRecord) error {
	st := f.state.Load()
	slot := f.vm.store.epochs.enter()
	defer f.vm.store.epochs.leave(slot)
	for i, b := range r.blocks {
		off := int64(b) * blockSize
		if off >= f.size.Load() {
			continue
		}
		if err := f.vm.store.writeRun(st.head, r.data[i*blockSize:(i+1)*blockSize], off); err != nil {
			return err
		}
		owner, _, err := run(st.chain.Map, off, blockSize, true)
		if err != nil {
			return err
		}
		if owner != st.head.id {
			f.own(st, owner, b, b+1)
		}
	}
	return nil
}
