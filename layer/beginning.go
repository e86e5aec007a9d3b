package layer

// The sound beginning of a damaged index. Where its tables are sound and only its log is damaged, the state before the damage
// is that after one of its commits: as good as a backup made at that moment, and newer than any. It becomes one.
//
//	write backup/index.tmp, sync it            crash: a file that the next backup removes
//	rename it to backup/NAME, sync backup/     crash: a backup more

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// beginning is an open one.
type beginning struct {
	*blockmap.Beginning
	since time.Time // it is from then, or later: nothing in it says when its last commit was made
	best  bool      // no sound backup is as new
}

// openBeginning opens that of a store's index; nil if there is none that is of use, or nothing is damaged.
func openBeginning(dir string) (*beginning, error) {
	owner, err := ownerOf(dir)
	if err != nil {
		return nil, err
	}
	_, lost := findLostEnd(dir, owner)
	found, err := blockmap.OpenBeginning(filepath.Join(dir, indexName), blockmap.Options{Counter: owner.counter(dir), Identity: owner.identity}, lost)
	if err != nil || found == nil {
		return nil, err
	}
	b := &beginning{Beginning: found, since: time.Unix(0, 0).UTC(), best: true}
	o := &offline{dir: dir, index: found.Index()}
	if err := o.read(); err != nil {
		return nil, errors.Join(err, found.Close())
	}
	b.later(o.catalog.newest())
	backups, err := listBackups(dir)
	for _, backup := range backups {
		if backup.verify(owner.identity) == nil {
			b.best = backup.commit < b.Commit
			if backup.commit <= b.Commit {
				b.later(backup.at)
			}
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, found.Close())
	}
	return b, nil
}

// later notes that it is not from before a time.
func (b *beginning) later(at time.Time) {
	if at.After(b.since) {
		b.since = at.UTC()
	}
}

func (b *beginning) String() string {
	text := fmt.Sprintf("the sound beginning of the index's log, up to commit %d of %d", b.Commit, b.Made)
	if b.Commit == b.Made {
		text = fmt.Sprintf("the sound beginning of the index's log, up to commit %d of nobody knows how many", b.Commit)
	}
	if b.since.Unix() > 0 {
		text += ", which was made at " + b.since.Format(time.RFC3339) + " or later"
	}
	return text
}

// newest is the newest time in a catalog.
func (c *catalog) newest() time.Time {
	at := time.Unix(0, 0)
	later := func(t time.Time) {
		if t.After(at) {
			at = t
		}
	}
	for _, l := range c.layers {
		later(time.Unix(0, l.Created))
	}
	for _, n := range c.snapshots {
		later(time.Unix(0, n.Created))
	}
	for _, g := range c.growth {
		for _, s := range g.Samples {
			later(time.Unix(s.At, 0))
		}
	}
	return at
}

// beginningIsBest says whether a damaged index has a beginning that is newer than all backups.
func beginningIsBest(dir string) bool {
	b, err := openBeginning(dir)
	if err != nil || b == nil {
		return false
	}
	return b.Close() == nil && b.best
}

// saveBeginning makes a backup of that of the old index, if it is newer than all that there are.
func (r *restore) saveBeginning() error {
	b, err := openBeginning(r.dir)
	if err != nil {
		r.report.Damage = err.Error()
	}
	if b == nil {
		return nil
	}
	defer b.Close()
	if !b.best {
		return nil
	}
	dir := filepath.Join(r.dir, backupName)
	if err := mkdir(dir, os.Mkdir); err == nil {
		err = syncDirectory(r.dir)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return Errorf(syscall.EIO, "make %s: %w", dir, err)
	}
	temp := filepath.Join(dir, backupTemp)
	if err := b.write(temp); err != nil {
		_ = os.Remove(temp)
		return Errorf(Errno(err), "save the sound beginning of the index: %w", err)
	}
	if err := rename(temp, filepath.Join(dir, nameBackup(b.since, b.Commit))); err != nil {
		return Errorf(syscall.EIO, "save the sound beginning of the index: %w", err)
	}
	r.beginning, r.report.From = b.Commit, b.String()
	return syncDirectory(dir)
}

func (b *beginning) write(path string) error {
	f, err := openFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if err = faulty("write"); err == nil {
		_, err = b.Backup(f)
	}
	return errors.Join(err, syncFile(f), f.Close())
}

// findings are what a repair tells of a restore.
func (r RestoreReport) findings() []Finding {
	all := []Finding{{Object: indexName, Text: fmt.Sprintf("was damaged; it is made anew from %s, and the old one is in %s", r.From, r.Aside)}}
	if r.Unknown > 0 {
		all = append(all, Finding{Object: layersName, Text: fmt.Sprintf("%d files of what was made since, %s, are in %s", r.Unknown, bytesText(r.Bytes), r.Aside)})
	}
	return append(append(all, r.Done...), r.States...)
}
