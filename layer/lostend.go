package layer

// Does an index lack its last commits? The counter says so. Where that is lost, or another store's, other files may show it: they
// are made and written after the commits that they go on from, so that nothing that the index does not know yet can be there.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// lostEnd is that it does. It is a blockmap.ErrDamaged, too.
type lostEnd struct {
	signs []Finding
}

func (e lostEnd) Error() string {
	return fmt.Sprintf("its last commits are missing, as %s shows", e.signs[0].Object)
}

func (e lostEnd) Unwrap() error { return blockmap.ErrDamaged }

// findLostEnd looks for that where no counter tells. An index that is damaged otherwise is none.
func findLostEnd(dir string, w owner) (end lostEnd, found bool) {
	if w.counted && !w.foreignCounter || !isDirectory(filepath.Join(dir, indexName)) {
		return end, false
	}
	err := readIndexBy(dir, "", w.identity, func(o *offline) (err error) {
		end, found, err = o.lostEnd()
		return err
	})
	return end, found && err == nil
}

func (o *offline) lostEnd() (end lostEnd, found bool, err error) {
	if sound, err := o.isSound(); err != nil || !sound {
		return end, false, err
	}
	for _, f := range o.foreign {
		if f.Instead {
			end.signs = append(end.signs, Finding{Object: filepath.Join(indexName, f.Name), Text: f.Text})
		}
	}
	files, err := o.newerFiles(maxID, layersName, sumsName, imagesName)
	end.signs = slices.Concat(end.signs, files, o.newerRecords())
	return end, len(end.signs) > 0 && err == nil, err
}

// refuseOlder refuses an index that is older than the store's data, though its counter is as old: what it would do next is to
// give out the same ids once more. Files beside data do no harm. A worker that takes over goes on with what the one before it had open.
func (s *Store) refuseOlder(c *catalog) error {
	if s.resumes {
		return nil
	}
	signs, err := (&offline{dir: s.dir, catalog: c}).newerFiles(c.store.Next+olderBy, layersName)
	if err != nil || len(signs) == 0 {
		return err
	}
	return Errorf(syscall.EIO, "the index of store %s %s", s.dir, olderText(s.dir, signs))
}

func olderText(dir string, signs []Finding) string {
	return fmt.Sprintf("is an older copy, or %s is another store's: that is newer than all that the index knows; put the right one back, or `snapfs check %s --repair` puts into %s what it does not know%s",
		signs[0].Object, dir, quarantineName, newerBackup(dir))
}

// newerBackup says which backup is newer than the index, if one is.
func newerBackup(dir string) string {
	identity, number, known, err := blockmap.ReadCounter(filepath.Join(dir, commitsName))
	backups, listErr := listBackups(dir)
	if err != nil || listErr != nil || !known {
		return ""
	}
	for _, b := range backups {
		if b.commit > number && b.verify(&identity) == nil {
			return fmt.Sprintf("; a backup of it is newer: `snapfs restore-index %s` goes on to that of %s", dir, b.at.Format(time.RFC3339))
		}
	}
	return ""
}

// tellOlder has a repair say that what was made since is gone.
func (m *mender) tellOlder() error {
	signs, err := m.newerFiles(m.catalog.store.Next+olderBy, layersName)
	if err != nil || len(signs) == 0 {
		return err
	}
	if newerBackup(m.dir) != "" { // which is better than what is left, as long as nothing was taken away
		return Errorf(syscall.EIO, "the index of store %s %s", m.dir, olderText(m.dir, signs))
	}
	m.wentBack = m.catalog.newest()
	m.lost = append(m.lost, Finding{Object: indexName, Text: fmt.Sprintf("is an older copy, as %s shows: what was made and written since is gone, but for what is in %s",
		signs[0].Object, quarantineName)})
	return nil
}

// checkOlder names that.
func (k *check) checkOlder() error {
	signs, err := k.newerFiles(k.catalog.store.Next+olderBy, layersName)
	if err == nil && len(signs) > 0 {
		k.found(indexName, "%s", olderText(k.dir, signs))
	}
	return err
}

// olderBy is how many ids an older copy may lack. A file of a higher one is somebody else's, and no reason to stop a mount.
const olderBy = 1 << 20

// newerFiles are those in some directories of ids, below one, that the index has not given out. It does so before they are made.
func (o *offline) newerFiles(below uint64, in ...string) (signs []Finding, err error) {
	for _, dir := range in {
		var names []string
		err := o.eachFile(dir, func(name string, info os.FileInfo) {
			if id, ok := idInName(name); ok && o.catalog.store.Next <= id && id < below && info.Mode().IsRegular() {
				names = append(names, name)
			}
		})
		if err != nil {
			return nil, err
		}
		if n := len(names); n > 0 {
			text := "is newer than all that the index knows"
			if n > 1 {
				text += fmt.Sprintf(", and so are %d others", n-1)
			}
			signs = append(signs, Finding{Object: filepath.Join(dir, names[0]), Text: text})
		}
	}
	return signs, nil
}

// newerRecords says whether the journal has records of layers that the index has not made yet, or counts such as needless that
// the index needs still. A journal that can't be read shows nothing here.
func (o *offline) newerRecords() []Finding {
	if o.catalog.store.Journal == "" {
		return nil
	}
	file, records, release, err := findJournal(o.dir, o.catalog.store)
	if err != nil || len(records) == 0 {
		return nil
	}
	defer release()
	defer file.close()
	tail, unknown, needless := records[len(records)-1].tail, 0, 0
	for _, r := range records {
		l, known := o.catalog.layers[r.layer]
		switch {
		case uint64(r.layer) >= o.catalog.store.Next:
			unknown += len(r.blocks)
		case known && l.Journal <= r.number && r.number < tail && file.kept[r.number] == 0: // else it is in journal.kept instead
			needless += len(r.blocks)
		}
	}
	var signs []Finding
	tell := func(blocks int, text string) {
		if blocks > 0 {
			signs = append(signs, Finding{Object: journalName, Text: fmt.Sprintf("has %d blocks that guests had flushed, %s", blocks, text)})
		}
	}
	tell(unknown, "of layers that the index does not know")
	tell(needless, "which were in the index since, and are not")
	return signs
}
