package layer

// A journal that is damaged, in a store that nobody has open. What is lost with it is what guests had flushed in the last
// seconds before the host or the daemon died; after a clean end it has nothing that is needed.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// journal loads the journal that the index names, closed; nil if it names none.
func (o *offline) journal() (*journalFile, error) {
	if o.catalog.store.Journal == "" {
		return nil, nil
	}
	file, _, release, err := findJournal(o.dir, o.catalog.store)
	if err != nil {
		return nil, err
	}
	file.close()
	release()
	return file, nil
}

func (k *check) checkJournal() {
	file, err := k.journal()
	switch {
	case err != nil:
		k.found(journalName, "%v; `snapfs check %s --repair` goes on without", err, k.dir)
		if err := k.noteLosers(); err != nil {
			k.found(journalName, "whom that strikes can't be found out: %v", err)
		}
	case file != nil:
		for _, what := range file.worn {
			k.found(journalName, "%s is damaged; there is another one, which is used, and the next mount writes both anew", what)
		}
	}
}

// mendJournal has the next mount go on with the records that can be read; without a header, without a journal. What is there
// twice is whole afterwards.
func (m *mender) mendJournal(q *quarantine) error {
	for {
		file, err := m.journal()
		switch {
		case err == nil && file != nil && len(file.worn) > 0:
			return m.mendWorn()
		case !errors.Is(err, errJournal):
			return err
		}
		if err := errorOf(m.mendDamage(q, err), m.read()); err != nil {
			return err
		}
	}
}

func (m *mender) mendWorn() error {
	file, _, release, err := findJournal(m.dir, m.catalog.store)
	if err != nil {
		return err
	}
	defer file.close()
	defer release()
	for _, what := range file.worn {
		m.did(journalName, "%s was damaged; it is written anew, as the other one is", what)
	}
	return file.mend()
}

// mendDamage does something about what is damaged first.
func (m *mender) mendDamage(q *quarantine, err error) error {
	var mark errMark
	if errors.As(err, &mark) {
		return m.drop(q, markName, func(r *storeRecord) { r.JournalMark = false }, "%v; the next mount makes another one", mark)
	}
	var kept errKept
	if errors.As(err, &kept) {
		return m.drop(q, keptName, func(r *storeRecord) { r.JournalKept = false }, "%v", kept)
	}
	var gap journalGap
	if errors.As(err, &gap) {
		m.did(journalName, "%d of its records cannot be read: of each, up to %d blocks that a guest had flushed in the last seconds are lost; the others are used",
			len(gap.lost), journalBlocks)
		known := m.catalog.store
		known.JournalGap = gap.until
		file, records, release, err := loadJournal(m.dir, known)
		if err != nil {
			return err
		}
		defer release()
		file.close()
		if err := m.tellLosers(records); err != nil {
			return err
		}
		return m.setJournal(func(r *storeRecord) { r.JournalGap = gap.until })
	}
	what := "was missing"
	if there, err := q.takeJournal(journalName); err != nil {
		return err
	} else if there {
		what = fmt.Sprintf("was damaged, and is in %s now", q.name)
	}
	for _, name := range []string{markName, keptName} {
		if _, err := q.takeJournal(name); err != nil {
			return err
		}
	}
	m.did(journalName, "%s; unless the store was unmounted in an orderly way, what guests had flushed in the last seconds is lost", what)
	if err := m.tellLosers(nil); err != nil {
		return err
	}
	return m.setJournal((*storeRecord).dropJournal)
}

// drop has nobody ask any more for a file beside the journal.
func (m *mender) drop(q *quarantine, name string, change func(*storeRecord), format string, args ...any) error {
	if _, err := q.takeJournal(name); err != nil {
		return err
	}
	m.did(journalName, format, args...)
	return m.setJournal(change)
}

// takeJournal puts the journal, or a file beside it, into quarantine, if it is there.
func (q *quarantine) takeJournal(name string) (there bool, err error) {
	if _, err := os.Lstat(filepath.Join(q.store, name)); err != nil {
		return false, nil
	}
	return true, errors.Join(q.take(name), q.settle())
}

// dropJournal has the next mount make another one.
func (r *storeRecord) dropJournal() {
	r.Journal, r.JournalGap, r.JournalMark, r.JournalKept = "", 0, false, false
}

func (m *mender) setJournal(change func(*storeRecord)) error {
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		return edit(tx, []byte{tableMeta}, change)
	}))
}

// writeBack does to a head that is about to be sealed what a start would have done: what the journal has of it is written to
// it, below the file's size in bytes.
//
//	write, sync                                 crash: the journal's records are needed as before
//	commit the blocks, and then the position    crash: the same
func (m *mender) writeBack(l *layer, size int64) error {
	if m.catalog.store.Journal == "" {
		return nil
	}
	file, records, release, err := findJournal(m.dir, m.catalog.store)
	if err != nil {
		return err
	}
	defer release()
	file.close()
	var blocks []uint64
	after, known := uint64(0), m.catalog.layers[l.id].Journal
	for _, r := range records {
		if r.layer != l.id || r.number < known {
			continue
		}
		if err := m.writeRecord(r, size); err != nil {
			m.did(layerName(l.id), "what the journal has of it could not be written to it: %v", err)
			return nil
		}
		blocks, after = append(blocks, r.blocks...), r.number+1
	}
	if after == 0 {
		return nil
	}
	blocks = slices.DeleteFunc(blocks, func(b uint64) bool { return int64(b)*blockSize >= size })
	if err := inSteps(m.index, blocks, func(tx *blockmap.Tx, b uint64) error { return m.hold(tx, l, b) }); err != nil {
		return err
	}
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableLayer, l.id), func(r *layerRecord) { r.HasFile, r.Journal = true, after })
	}))
}

// writeRecord writes a record's blocks to its layer's data file.
func (o *offline) writeRecord(r journalRecord, size int64) error {
	f, err := openFile(o.path(layersName, r.layer), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	for i, b := range r.blocks {
		if off := int64(b) * blockSize; off < size && err == nil {
			_, err = f.WriteAt(r.data[i*blockSize:(i+1)*blockSize], off)
		}
	}
	return errors.Join(err, syncFile(f), f.Close())
}

// hold has the index know that a layer holds a block.
func (o *offline) hold(tx *blockmap.Tx, l *layer, block uint64) error {
	region, i := block/blockmap.RegionBlocks, int(block%blockmap.RegionBlocks)
	in, r, err := o.tree.recordToChange(tx, l, region)
	if err != nil {
		return err
	}
	was := r.Empty()
	r.Data.SetRange(i, i+1)
	r.Zero.ClearRange(i, i+1)
	putRecord(tx, in, l.id, region, was, &r)
	return nil
}
