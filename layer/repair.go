package layer

// Repair: what check finds is set right where that can be, and what can't is put aside or noted.
//
//	put strays into quarantine, sync              crash: some are there; the next repair goes on
//	commit what is set right, in steps            crash: some of it is; the same
//	make data files that are gone, empty, sync    crash: they are missing, and all that they held is noted as lost

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// Repair is Check, but for that it sets right what it finds. The report's findings are what stays: what is lost, to whom,
// and what a repair can do nothing about; Lost is what beside them it could not save.
func Repair(dir string) (report Report, err error) {
	q := &quarantine{store: dir}
	var done, lost []Finding
	var wentBack, untold time.Time
	if isStoreWithout(dir) {
		if err := errorOf(q.takeLock(&done), repairFormat(dir, q, &done)); err != nil {
			return report, err
		}
	}
	repair := func(o *offline) error {
		m := &mender{offline: o, cause: "found by a repair"}
		err := m.repair(q)
		done, lost = append(done, m.done...), append(lost, m.lost...)
		if !m.wentBack.IsZero() {
			wentBack = m.wentBack
		}
		if err == nil {
			report, err = o.check()
			untold = o.catalog.store.untold()
		}
		return err
	}
	err = withOffline(dir, q, &done, repair)
	if w, own := ownerOfDamage(dir, err); own && w.foreignFormat {
		if err = repairForeignFormat(dir, q, &done, w); err == nil {
			err = withOffline(dir, q, &done, repair)
		}
	}
	if w, own := ownerOfDamage(dir, err); errors.Is(err, blockmap.ErrNoCounter) || own && w.foreignCounter {
		var newest time.Time
		if newest, err = repairCounter(dir, q, &done); err == nil {
			wentBack = newest // or not at all
			err = withOffline(dir, q, &done, repair)
		}
	}
	var restored *RestoreReport
	if errors.As(err, new(indexDamage)) && beginningIsBest(dir) {
		var end lostEnd
		if errors.As(err, &end) {
			lost = append(end.signs, Finding{Object: indexName, Text: end.Error() + ": what was made and written in them is gone"})
		}
		var r RestoreReport
		if r, err = RestoreIndex(dir, false); err == nil {
			done, wentBack, restored = append(done, r.findings()...), r.Taken, &r
			err = withOffline(dir, q, &done, repair)
		}
	}
	err = damageFound(dir, &report, err)
	if report.Untold = !untold.IsZero(); report.Untold {
		if restored == nil {
			lost = append(lost, Finding{Object: indexName, Text: untoldText(untold)})
		}
		wentBack = untold
	}
	report.Repaired, report.Lost, report.WentBack, report.Restored = done, lost, wentBack, restored
	return report, err
}

func (m *mender) repair(q *quarantine) error {
	if m.tree == nil || m.catalog.store.Restoring {
		return nil // check says what to do
	}
	if err := errorOf(m.tellOlder(), m.mendFormat()); err != nil {
		return err
	}
	if err := m.mendJournal(q); err != nil {
		return err
	}
	if err := errors.Join(m.mend(), m.mendCounter()); err != nil {
		return err
	}
	strays, err := m.strays()
	if err != nil {
		return err
	}
	if err := m.setAside(q, strays); err != nil {
		return err
	}
	if err := errors.Join(m.makeMissing(), m.read(), m.dropSums()); err != nil { // those of a stray went with it
		return err
	}
	return m.read()
}

// repairFormat writes FORMAT anew where it is missing or can't be read: for the oldest version that has all that is in the store,
// so that a program which may have to come back knows it. That of a version that is not known is left to be refused.
func repairFormat(dir string, q *quarantine, done *[]Finding) error {
	_, err := os.Lstat(filepath.Join(dir, formatName))
	missing := errors.Is(err, os.ErrNotExist)
	if !missing && wrongIn(dir, formatName) == "" {
		data, err := os.ReadFile(filepath.Join(dir, formatName))
		if err != nil {
			return Errorf(unix.EIO, "read %s: %w", formatName, err)
		}
		if _, sound := decodeFormat(data); sound {
			return nil
		}
	}
	lock, err := lockStore(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	what := "was missing"
	if !missing {
		if err := q.take(formatName); err != nil {
			return err
		}
		if err := q.settle(); err != nil {
			return err
		}
		what = "was damaged, and is in " + q.name + " now"
	}
	version := formatJournal - 1
	if _, err := os.Lstat(filepath.Join(dir, journalName)); err == nil {
		version = formatJournal
	}
	if err := writeFormat(dir, format{Version: version}); err != nil {
		return err
	}
	*done = append(*done, Finding{Object: formatName, Text: fmt.Sprintf("%s; it is made anew, for version %d, which has all that is in the store", what, version)})
	return nil
}

// repairForeignFormat writes FORMAT anew where it is that of another store, for the version that it says.
func repairForeignFormat(dir string, q *quarantine, done *[]Finding, w owner) error {
	f, err := readFormatFile(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(q.take(formatName), q.settle()); err != nil {
		return err
	}
	if err := writeFormat(dir, format{Version: f.Version, Index: hex.EncodeToString(w.identity[:])}); err != nil {
		return err
	}
	*done = append(*done, Finding{Object: formatName, Text: "was that of another store, and is in " + q.name + " now; it is made anew"})
	return nil
}

// repairCounter makes the counter of commits anew, of an index that shows no sign of having lost its last commits. That is as
// far as it can be told then: it returns the newest moment that the index knows of.
func repairCounter(dir string, q *quarantine, done *[]Finding) (newest time.Time, err error) {
	lock, err := lockStore(dir)
	if err != nil {
		return newest, err
	}
	defer lock.Close()
	identity := formatIdentity(dir)
	err = readIndexBy(dir, "", identity, func(o *offline) error {
		newest = o.catalog.newest()
		end, found, err := o.lostEnd()
		if found {
			return indexDamage{end}
		}
		return err
	})
	if err != nil {
		return newest, err // nothing to make it of
	}
	path := filepath.Join(dir, commitsName)
	what := "was missing"
	if _, err := os.Lstat(path); err == nil {
		what = "was damaged"
		if _, _, sound, err := blockmap.ReadCounter(path); err == nil && sound {
			what = "was that of another store"
		}
		if err := errors.Join(q.take(commitsName), q.settle()); err != nil {
			return newest, err
		}
		what += ", and is in " + q.name + " now"
	}
	if err := blockmap.MakeCounter(path, filepath.Join(dir, indexName), blockmap.Options{Aside: q.takeIndexStray(done), Identity: identity}); err != nil {
		return newest, indexDamage{err}
	}
	*done = append(*done, Finding{Object: commitsName, Text: what + "; it is made anew, from the index, so that nobody knows whether the last commits are missing there"})
	return newest, nil
}
