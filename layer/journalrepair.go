package layer

// A journal that is damaged, in a store that nobody has open. What is lost with it is what guests had flushed in the last
// seconds before a crash of the host; after a clean end it has nothing that is needed.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapfs/snapfs/blockmap"
)

// journalDamage looks at the journal that the index names.
func (o *offline) journalDamage() error {
	if o.catalog.store.Journal == "" {
		return nil
	}
	file, _, release, err := findJournal(o.dir, o.catalog.store)
	if err == nil {
		file.close()
		release()
	}
	return err
}

func (k *check) checkJournal() {
	if err := k.journalDamage(); err != nil {
		k.found(journalName, "%v; `snapfs check %s --repair` goes on without", err, k.dir)
	}
}

// mendJournal has the next mount go on with the records that can be read; if that is none of them, without a journal.
func (m *mender) mendJournal(q *quarantine) error {
	err := m.journalDamage()
	if !errors.Is(err, errJournal) {
		return err
	}
	var gap journalGap
	if errors.As(err, &gap) {
		m.did(journalName, "%d of its records cannot be read, and nobody knows of which VMs: of each, up to %d blocks that a guest had flushed in the last seconds before a crash are lost; the others are used",
			len(gap.lost), journalBlocks)
		return m.setJournal(m.catalog.store.Journal, gap.newest)
	}
	what := "was missing"
	if _, err := os.Lstat(filepath.Join(m.dir, journalName)); err == nil {
		if err := errors.Join(q.take(journalName), q.settle()); err != nil {
			return err
		}
		what = fmt.Sprintf("was damaged, and is in %s now", q.name)
	}
	m.did(journalName, "%s; if the host had crashed, what guests had flushed in the last seconds before is lost", what)
	return m.setJournal("", 0)
}

func (m *mender) setJournal(id string, gap uint64) error {
	return commitError(m.index.UpdateFreeing(func(tx *blockmap.Tx) error {
		return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.Journal, r.JournalGap = id, gap })
	}))
}
