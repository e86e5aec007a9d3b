package layer

// Restoring the index: the newest sound backup, or the sound beginning of the index itself if that is newer, takes the place of an index that is damaged. It is older than the data
// files, so that nothing in it is believed which they could contradict: see restorecatalog.go.
//
//	make a backup of the sound beginning               crash: a backup more
//	make quarantine/TIME/index of the backup, sync     crash: the old index, and a directory in quarantine
//	exchange it with index/, sync                      crash: the new index, which is marked as not done; the store is
//	                                                   refused until restore-index is run again
//	make the counter of commits, if it was lost        crash: the same
//	put files that it does not know, and the journal,
//	into quarantine                                    crash: the same
//	commit that it is done                             crash: it is done, and told by whoever looks next: see untold.go

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// RestoreReport is what a restore came to. Paths are relative to the store.
type RestoreReport struct {
	From    string // what the index is made of, and how far that goes
	Backup  string
	Taken   time.Time
	Damage  string    // why nothing of the old index could be used; empty: something was, or it was not damaged
	Skipped []Finding // newer backups that are damaged
	Aside   string    // where the old index is, and all that the new one does not know
	Done    []Finding // what was set right
	States  []Finding // what each VM's current state is
	Lost    []Finding // what it lacks, and what a check of the store finds
	Names   []string  // VMs, and snapshots as VM@NAME, that it has
	Unknown int       // data files and images put aside, of what was made since the backup
	Bytes   int64     // that they take
}

// RestoreIndex makes the index of a store anew of its newest sound backup. Nobody may have the store open. The old index is
// kept. EINVAL, unless forced, where that is sound: what was made since the backup would be gone for nothing.
func RestoreIndex(dir string, force bool) (report RestoreReport, err error) {
	lock, err := lockForRestore(dir)
	if err != nil {
		return report, err
	}
	defer lock.Close()
	if err := refuseAway(dir); err != nil {
		return report, err
	}
	r := &restore{dir: dir, aside: &quarantine{store: dir}, report: &report}
	if err := errorOf(r.aside.noteWrong(&report.Done), r.saveBeginning()); err != nil {
		return report, err
	}
	backups, err := r.candidates()
	if err != nil {
		return report, err
	}
	if err := makeLayers(dir, r.aside, &report.Done); err != nil {
		return report, err
	}
	if !force && r.owner.counted && newerBackup(dir) == "" && isSound(dir, r.owner) {
		if r.owner.foreignCounter || r.owner.foreignFormat {
			return report, Errorf(unix.EINVAL, "the index of store %s is sound, and %s: `snapfs check %[1]s --repair` makes that anew", dir, r.owner.foreignText())
		}
		if at := untoldIn(dir); !at.IsZero() {
			return report, Errorf(unix.EINVAL, "the index of store %s is sound, and %s: `snapfs check %[1]s --repair` names them", dir, untoldText(at))
		}
		return report, Errorf(unix.EINVAL, "the index of store %s is sound: a restore would only take away what was made since the backup of %s; `snapfs restore-index %[1]s --force` does it all the same",
			dir, backups[0].at.Format(time.RFC3339))
	}
	if err := r.buildFrom(backups); err != nil {
		if r.aside.name != "" {
			_ = os.Remove(filepath.Join(dir, r.aside.name)) // empty
		}
		return report, err
	}
	if err := r.exchange(); err != nil {
		return report, err
	}
	if err := r.finish(); err != nil {
		return report, Errorf(Errno(err), "the index was restored in part; run `snapfs restore-index %s` again: %w", dir, err)
	}
	err = readIndex(dir, func(o *offline) error {
		check, err := o.check()
		report.Lost, report.Names = check.Findings, check.Names
		return err
	})
	if err != nil {
		return report, Errorf(Errno(err), "the index is restored; what it lacks is not known, so run `snapfs check %s`: %w", dir, err)
	}
	return report, nil
}

// lockForRestore refuses what is no store, or in use.
func lockForRestore(dir string) (*os.File, error) {
	if err := findStore(dir); err != nil {
		return nil, err
	}
	lock, err := lockStore(dir)
	if err != nil {
		return nil, err
	}
	if _, err := readFormat(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// isSound says whether a store's index can be opened, and does not contradict itself. Without a counter of commits nobody
// knows that.
func isSound(dir string, w owner) (sound bool) {
	if !isDirectory(filepath.Join(dir, indexName)) {
		return false // to open it would make it
	}
	if _, lost := findLostEnd(dir, w); lost {
		return false
	}
	err := readIndexBy(dir, w.counter(dir), w.identity, func(o *offline) (err error) {
		sound, err = o.isSound()
		return err
	})
	return err == nil && sound
}

// isSound says whether an index does not contradict itself.
func (o *offline) isSound() (bool, error) {
	k := &check{offline: o, files: make(map[LayerID]bool)}
	err := errors.Join(k.checkCatalog(), k.checkRecords())
	return err == nil && o.tree != nil && !o.catalog.store.Restoring && !k.unsound, err
}

// refuseRestored refuses an index whose restore is not done, and one that was restored while a mount was under way: what
// that knows is of the old index.
func (s *Store) refuseRestored(r storeRecord) error {
	h := s.session.header
	switch {
	case r.Restoring:
		return Errorf(syscall.EIO, "the restore of the index of store %s was cut short; run `snapfs restore-index %[1]s` again", s.dir)
	case s.resumes && h.restored != r.Restored:
		return Errorf(syscall.EIO, "the index of store %s was restored while it was mounted; unmount it, and mount it again", s.dir)
	}
	h.restored = r.Restored
	return nil
}

type restore struct {
	dir       string
	owner     owner
	after     uint64 // its commits had numbers up to this
	made      uint64 // and this is the last of them that is known
	beginning uint64 // the last commit of its sound beginning, if that is now a backup
	aside     *quarantine
	report    *RestoreReport
}

// candidates are all backups, the newest first.
func (r *restore) candidates() ([]backupFile, error) {
	_, number, _, err := blockmap.ReadCounter(filepath.Join(r.dir, commitsName))
	if err == nil {
		r.owner, err = ownerOf(r.dir)
	}
	if err != nil {
		return nil, Errorf(syscall.EIO, "read %s: %w", commitsName, err)
	}
	if r.owner.unknown {
		return nil, Errorf(syscall.EIO, "%s, %s and the index of store %s are not all of one store, and nothing tells which is this one's: put the right ones in their place", commitsName, formatName, r.dir)
	}
	if !r.owner.foreignCounter {
		r.after, r.made = number, number
	}
	backups, err := listBackups(r.dir)
	if err != nil {
		return nil, err
	}
	if len(backups) == 0 {
		return nil, Errorf(syscall.ENOENT, "store %s has no backup of its index in %s", r.dir, filepath.Join(r.dir, backupName))
	}
	for _, b := range backups {
		r.after = max(r.after, b.commit)
	}
	return backups, nil
}

// buildFrom makes the new index of the first backup that is sound.
func (r *restore) buildFrom(backups []backupFile) error {
	for _, b := range backups {
		name := filepath.Join(backupName, filepath.Base(b.path))
		err := b.verify(r.owner.identity)
		if err == nil {
			err = r.build(b)
		}
		switch {
		case err == nil:
			r.report.Backup, r.report.Taken = name, b.at
			if r.report.From == "" || r.beginning != b.commit {
				r.report.From = fmt.Sprintf("%s, made at %s, up to commit %d of %d", name, b.at.Format(time.RFC3339), b.commit, max(r.made, b.commit))
			}
			return nil
		case Errno(err) == syscall.ENOSPC:
			return err
		}
		r.report.Skipped = append(r.report.Skipped, Finding{Object: name, Text: err.Error()})
	}
	first, more := r.report.Skipped[0], ""
	if n := len(backups) - 1; n > 0 {
		more = fmt.Sprintf("; nor is any of the %d others", n)
	}
	return Errorf(syscall.EIO, "store %s has no sound backup of its index: %s is not: %s%s", r.dir, first.Object, first.Text, more)
}

// build makes the new index in quarantine. Until the exchange nothing else is changed.
func (r *restore) build(b backupFile) (err error) {
	path, err := r.aside.path(indexName)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(path) // all that is there yet
		}
	}()
	r.report.Aside = r.aside.name
	space, err := newSpace(r.dir, Reserve{}, func(string, string, ...any) {})
	if err != nil {
		return err
	}
	defer space.ballast.close()
	index, err := blockmap.OpenBackup(path, b.path, r.after, blockmap.Options{Room: space.room})
	if err != nil {
		return indexError(err, "restore the index")
	}
	m := &mender{offline: &offline{dir: r.dir, index: index}, quiet: true, cause: "the index was restored from a backup of " + b.at.Format(time.RFC3339)}
	err = errors.Join(m.adjust(b.at), index.Close())
	if err != nil {
		return Errorf(Errno(err), "restore the index: %w", err)
	}
	r.report.Done, r.report.States = append(r.report.Done, m.done...), m.states
	return syncTree(path)
}

// syncTree makes a directory and the files in it durable.
func syncTree(dir string) error {
	entries, err := readDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		f, err := openFile(filepath.Join(dir, entry.Name()), os.O_RDONLY)
		if err != nil {
			return err
		}
		if err := errors.Join(syncFile(f), f.Close()); err != nil {
			return Errorf(syscall.EIO, "sync %s: %w", f.Name(), err)
		}
	}
	return errors.Join(syncDirectory(dir), syncDirectory(filepath.Dir(dir)))
}

// exchange puts the new index in the place of the old one, which is in quarantine then. Where the file system can't do
// that at once, a crash in between leaves a store without an index, which is refused.
func (r *restore) exchange() error {
	from, err := r.aside.path(indexName)
	if err != nil {
		return err
	}
	to := filepath.Join(r.dir, indexName)
	if err = faultyAt("rename", to); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	}
	switch {
	case errors.Is(err, unix.ENOENT): // the old one is gone
		err = rename(from, to)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		if err = rename(to, from+".old"); err == nil {
			err = rename(from, to)
		}
	}
	if err != nil {
		return Errorf(syscall.EIO, "put the restored index in place: %w", err)
	}
	return errors.Join(syncDirectory(r.dir), syncDirectory(filepath.Dir(from)))
}

// finish does what the new index asks of the store's other files, and says that it is done.
func (r *restore) finish() error {
	if r.owner.foreignFormat {
		if err := repairForeignFormat(r.dir, r.aside, &r.report.Done, r.owner); err != nil {
			return err
		}
	}
	if !r.owner.counted || r.owner.foreignCounter {
		path := filepath.Join(r.dir, commitsName)
		if _, err := os.Lstat(path); err == nil {
			if err := r.aside.take(commitsName); err != nil {
				return err
			}
		}
		if err := blockmap.MakeCounter(path, filepath.Join(r.dir, indexName), blockmap.Options{Aside: r.aside.takeIndexStray(&r.report.Done), Identity: r.owner.identity}); err != nil {
			return err
		}
	}
	return withIndex(r.dir, r.aside, &r.report.Done, func(o *offline) error {
		if o.tree == nil {
			return o.broken
		}
		m := &mender{offline: o, quiet: true}
		strays, err := m.unknown()
		if err != nil {
			return err
		}
		for _, s := range strays {
			r.report.Unknown++
			r.report.Bytes += s.bytes
		}
		others, err := m.strays(".", indexName, sumsName, backupName, frozenName)
		if err != nil {
			return err
		}
		if err := m.setAside(r.aside, append(strays, others...)); err != nil {
			return err
		}
		r.report.Done = append(r.report.Done, m.done...)
		if err := m.makeMissing(); err != nil {
			return err
		}
		if err := r.dropJournal(); err != nil {
			return err
		}
		return commitError(o.index.UpdateFreeing(func(tx *blockmap.Tx) error {
			return edit(tx, []byte{tableMeta}, func(s *storeRecord) {
				s.Restoring = false
				s.dropJournal()
			})
		}))
	})
}

// dropJournal puts the journal into quarantine, with what belongs to it: what it goes on from is the old index.
func (r *restore) dropJournal() error {
	var errs []error
	for _, name := range []string{journalName, markName, keptName} {
		_, err := r.aside.takeJournal(name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
