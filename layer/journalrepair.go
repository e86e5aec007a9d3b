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
	case errors.Is(err, errLinked):
		k.found(journalName, "%v", err)
	case err != nil:
		k.found(journalName, "%v%s", err, journalRemedy(k.dir, err))
		if err := k.noteLosers(); err != nil {
			k.found(journalName, "whom that strikes can't be found out: %v", err)
		}
	case file != nil:
		for _, what := range file.worn {
			k.found(journalName, "%s is damaged; there is another one, which is used, and the next mount writes both anew", what)
		}
		if file.slots != journalSlots {
			k.note(journalName, "has %d bytes, and is made with %d: it was cut off behind its last record, or something was added there; nothing is lost",
				int64(file.slots)*blockSize, int64(journalSlots)*blockSize)
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
		m.lost = append(m.lost, Finding{Object: journalName, Text: kept.Error()})
		return m.drop(q, keptName, func(r *storeRecord) { r.JournalKept = false }, "%v", kept)
	}
	var length errLength
	if errors.As(err, &length) {
		if mended, err := m.mendLength(length); mended || err != nil {
			return err
		}
	}
	var gap journalGap
	if errors.As(err, &gap) {
		known := m.catalog.store
		known.JournalGap = gap.until
		file, records, release, err := loadJournal(m.dir, known)
		if err != nil {
			return err
		}
		defer release()
		file.close()
		if err := m.goOnAfter(gap, records); err != nil {
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
	text := "%s; unless the store was unmounted in an orderly way, what guests had flushed in the last seconds may be lost"
	if m.hostWentOn() {
		text = "%s; " + wentOnText + ", but for blocks that the journal alone knew of"
	}
	if err := m.tellLosers(nil); err != nil { // before the mark is gone
		return err
	}
	for _, name := range []string{markName, keptName} {
		if _, err := q.takeJournal(name); err != nil {
			return err
		}
	}
	m.did(journalName, text, what)
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
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) {
			change(r)
			for _, f := range m.lost {
				f.Ranges = nil // the report has them all
				if !slices.ContainsFunc(r.Lost, func(o Finding) bool { return o.Text == f.Text && o.Object == f.Object }) {
					r.Lost = append(r.Lost, f)
				}
			}
		})
	}))
}

const wentOnText = "the host has not gone down since, so that the data files have what guests had flushed"

// goOnAfter has the records that are left be used: by the next mount, which writes them to their layers. What it wrote there
// would be older than what is in the data files, and was promised, if the host went on.
func (m *mender) goOnAfter(gap journalGap, left []journalRecord) error {
	if !m.hostWentOn() {
		n := len(gap.lost)
		m.did(journalName, "%d of its records cannot be read: of each, up to %d blocks that a guest had flushed in the last seconds are lost, up to %s in all; the others are used",
			n, journalBlocks, bytesText(int64(n)*journalBlocks*blockSize))
		return m.tellLosers(left)
	}
	for _, f := range m.catalog.files {
		if l := m.tree.layer(f.Head); l != nil && !f.Unlinked {
			if err := m.takeOver(l, f.Size, left); err != nil {
				return err
			}
		}
	}
	m.did(journalName, "%d of its records cannot be read, and the others are used; %s, but for blocks that these records alone knew of", len(gap.lost), wentOnText)
	return m.tellLosers(left)
}

// takeOver has the index know of the blocks that records name of a head, as they are in its data file.
//
//	write what it lacks, sync                   crash: the journal's records are needed as before
//	commit the blocks, and then the position    crash: the same
func (m *mender) takeOver(l *layer, size int64, records []journalRecord) error {
	records = m.needed(l, records)
	if len(records) == 0 {
		return nil
	}
	if err := m.writeRecords(l, size, records, true); err != nil {
		return err
	}
	return m.holdRecords(l, size, records)
}

// needed are the records of a head that it still needs.
func (o *offline) needed(l *layer, records []journalRecord) (found []journalRecord) {
	for _, r := range records {
		if r.layer == l.id && r.number >= o.catalog.layers[l.id].Journal {
			found = append(found, r)
		}
	}
	return found
}

// writeBack does to a head that is about to be sealed what a start would have done: what the journal has of it is written to
// it, below the file's size in bytes. A crash leaves what takeOver does.
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
	records = m.needed(l, records)
	if len(records) == 0 {
		return nil
	}
	if err := m.writeRecords(l, size, records, false); err != nil {
		m.did(layerName(l.id), "what the journal has of it could not be written to it: %v", err)
		return nil
	}
	return m.holdRecords(l, size, records)
}

// holdRecords has the index know of the records' blocks, which are in the layer's data file, and not need the records.
func (m *mender) holdRecords(l *layer, size int64, records []journalRecord) error {
	var blocks []uint64
	for _, r := range records {
		blocks = append(blocks, r.blocks...)
	}
	blocks = slices.DeleteFunc(blocks, func(b uint64) bool { return int64(b)*blockSize >= size })
	if err := inSteps(m.index, blocks, func(tx *blockmap.Tx, b uint64) error { return m.hold(tx, l, b) }); err != nil {
		return err
	}
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableLayer, l.id), func(r *layerRecord) {
			r.HasFile, r.Journal = true, records[len(records)-1].number+1
		})
	}))
}

// writeRecords writes records to their layer's data file: all, or those blocks that it does not have.
func (o *offline) writeRecords(l *layer, size int64, records []journalRecord, missing bool) error {
	f, err := openFile(o.path(layersName, l.id), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	if missing { // the newest first, whose blocks the older ones then find there
		records = slices.Clone(records)
		slices.Reverse(records)
	}
	for _, r := range records {
		for i, b := range r.blocks {
			off := int64(b) * blockSize
			if off >= size || err != nil {
				continue
			}
			at := int64(-1) // of data in the file from there on
			if missing {
				at, err = seek(f, off, unix.SEEK_DATA, -1)
			}
			if err == nil && (at < 0 || at >= off+blockSize) {
				_, err = f.WriteAt(r.data[i*blockSize:(i+1)*blockSize], off)
			}
		}
	}
	return errors.Join(err, syncFile(f), f.Close(), syncDirectory(filepath.Join(o.dir, layersName)))
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
