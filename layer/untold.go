package layer

// What is gone for a restore is told by its report, and known to the events alone from then on: a restore that is killed before it has
// reported leaves a mark in the catalog, with which the new index came, and whoever looks next tells instead.
//
//	commit that the restore is done            crash: a check says what is gone, a mount that something is
//	write the events, print the report         crash: the same
//	commit that it was told                    crash: it was

import (
	"fmt"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// untold is the time that a restore went back to which was not told to the end; zero: there is none.
func (r storeRecord) untold() (at time.Time) {
	if r.Untold != 0 && !r.Restoring {
		at = time.Unix(0, r.Untold)
	}
	return at
}

func untoldText(at time.Time) string {
	return fmt.Sprintf("went back to %s in a restore that did not come to say so: what guests wrote since may be gone, and so are VMs and snapshots that were made since",
		at.Format(time.RFC3339))
}

// untoldIn is untold of a store that is locked.
func untoldIn(dir string) (at time.Time) {
	_ = readIndex(dir, func(o *offline) error {
		at = o.catalog.store.untold()
		return nil
	})
	return at
}

// checkUntold finds that nobody was told.
func (o *offline) checkUntold(report *Report) {
	if at := o.catalog.store.untold(); !at.IsZero() {
		report.WentBack = at
		report.Findings = append(report.Findings, Finding{Object: indexName,
			Text: untoldText(at) + fmt.Sprintf("; `snapfs check %s --repair` puts that in `snapfs log` and has done with it", o.dir)})
	}
}

// Told is to be called when what is gone for a restore was told, by RestoreIndex's report or Repair's.
func Told(dir string) error {
	lock, err := lockStore(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	err = withIndex(dir, &quarantine{store: dir}, new([]Finding), func(o *offline) error {
		return commitError(o.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.Untold = 0 })
		}))
	})
	if err != nil {
		return Errorf(Errno(err), "the index is restored, and what is gone for that was told; as this can't be noted, it will be told again: %w", err)
	}
	return nil
}

// logUntold has the log say that something is gone that nobody was told of.
func (s *Store) logUntold(r storeRecord) {
	if at := r.untold(); !at.IsZero() {
		s.opts.Event("", "index-restored", "object", indexName, "what", untoldText(at)+"; `snapfs check` names them")
	}
}
