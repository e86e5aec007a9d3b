package layer

// Backups of the index, which the store makes of itself while it is open: what `restore-index` goes back to.
//
//	write backup/NAME.tmp, sync it            crash: a file that the next backup removes
//	rename it to backup/NAME, sync backup/    crash: the backup, or the file of before
//	remove those that are too many            crash: the next backup does

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	backupName  = "backup"
	backupTemp  = "index.tmp"
	backupTime  = "20060102T150405Z"
	backupsKept = 3                // the newest
	backupDays  = 2                // days before, of each of which the newest is kept, too; in UTC
	backupAgain = 10 * time.Minute // after one that failed
	backupSync  = 8 << 20          // bytes; no more than that wait for the disk at once, or flushes of guests would wait for them
)

// backupEvery is how old the newest backup becomes; that of a store in which since then as much was committed as in all the
// time before, which is a young one, no older than backupSoon. backupLook is how often to look. Tests don't have that long.
var (
	backupEvery = time.Hour
	backupSoon  = time.Minute
	backupLook  = 10 * time.Second
)

// backupFile is a backup in backup/. Its name has the time when it was begun, and the number of the last commit in it.
type backupFile struct {
	path   string
	at     time.Time
	commit uint64
}

// listBackups returns them, the newest first.
func listBackups(store string) ([]backupFile, error) {
	dir := filepath.Join(store, backupName)
	entries, err := readDir(dir)
	if err != nil && !isDirectory(dir) {
		return nil, nil
	}
	if err != nil {
		return nil, Errorf(syscall.EIO, "read %s: %w", dir, err)
	}
	var all []backupFile
	for _, entry := range entries {
		at, commit, ok := parseBackupName(entry.Name())
		if ok && entry.Type().IsRegular() {
			all = append(all, backupFile{filepath.Join(dir, entry.Name()), at, commit})
		}
	}
	slices.SortFunc(all, func(a, b backupFile) int { return cmp.Compare(b.commit, a.commit) })
	return all, nil
}

// verify reads a backup through, and refuses one that is damaged, or of another index; nil: which is not known.
func (b backupFile) verify(identity *[16]byte) error {
	info, err := blockmap.VerifyBackup(b.path)
	if err == nil && identity != nil && info.Identity != *identity {
		err = errors.New("it is of another store's index")
	}
	return err
}

// identityOf is that of a store's index that can be opened, as the counter of commits has it; nil if that is not known.
func identityOf(store string) *[16]byte {
	identity, _, found, err := blockmap.ReadCounter(filepath.Join(store, commitsName))
	if err != nil || !found {
		return nil
	}
	return &identity
}

func nameBackup(at time.Time, commit uint64) string {
	return fmt.Sprintf("%s-%d", at.UTC().Format(backupTime), commit)
}

func parseBackupName(name string) (at time.Time, commit uint64, ok bool) {
	first, last, _ := strings.Cut(name, "-")
	at, err := time.Parse(backupTime, first)
	commit, err2 := strconv.ParseUint(last, 10, 64)
	return at, commit, err == nil && err2 == nil
}

// surplus are those that need not be kept any more, of backups from the newest on.
func surplus(backups []backupFile) (gone []backupFile) {
	days := 0
	for i, b := range backups {
		switch {
		case i < backupsKept:
		case days < backupDays && !sameDay(b.at, backups[i-1].at):
			days++
		default:
			gone = append(gone, b)
		}
	}
	return gone
}

func sameDay(a, b time.Time) bool {
	const day = 24 * time.Hour
	return a.Truncate(day).Equal(b.Truncate(day))
}

// keepBackups makes one whenever the newest is too old and something was committed since, until the store is closed.
func (s *Store) keepBackups() {
	tick := time.NewTicker(backupLook)
	defer tick.Stop()
	for again := time.Now(); ; {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			if now.Before(again) {
				continue
			}
			if err := s.backUpIfDue(now); err != nil && !errors.Is(err, errStopped) {
				s.opts.Event("", "index-backup-failed", "error", err.Error())
				again = now.Add(backupAgain)
			}
		}
	}
}

func (s *Store) backUpIfDue(now time.Time) error {
	backups, err := listBackups(s.dir)
	if err != nil {
		return err
	}
	if len(backups) > 0 {
		newest, committed := backups[0], s.index.Committed()
		every := backupEvery
		if committed >= 2*newest.commit {
			every = min(every, backupSoon)
		}
		age := now.Sub(newest.at) // below 0 if the clock was set back
		if age >= 0 && age < every || newest.commit == committed {
			return nil
		}
	}
	need := s.index.Size()
	if _, free := s.space.measure(); free-s.space.reserve < need {
		if s.unsaved.Swap(true) { // told already
			return nil
		}
		s.opts.Event("", "index-backup-skipped", "why", "the store's file system is full", "needed", need)
		return nil
	}
	s.unsaved.Store(false)
	return s.backUp(now)
}

// backUp makes a backup. It works no more than half of the time, so that guests have the disk.
func (s *Store) backUp(now time.Time) error {
	dir := filepath.Join(s.dir, backupName)
	if err := mkdir(dir, os.Mkdir); err == nil {
		err = syncDirectory(s.dir)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return Errorf(syscall.EIO, "make %s: %w", dir, err)
	}
	temp := filepath.Join(dir, backupTemp)
	info, err := s.writeBackup(temp)
	if err != nil {
		_ = os.Remove(temp)
		return err
	}
	name := nameBackup(now, info.Commit)
	if err := rename(temp, filepath.Join(dir, name)); err != nil {
		_ = os.Remove(temp)
		return Errorf(syscall.EIO, "back up the index: %w", err)
	}
	if err := syncDirectory(dir); err != nil {
		return err
	}
	s.opts.Event("", "index-backup", "file", backupName+"/"+name, "bytes", info.Bytes)
	backups, err := listBackups(s.dir)
	for _, b := range surplus(backups) {
		err = errors.Join(err, removeFile(b.path))
	}
	return err
}

func (s *Store) writeBackup(path string) (info blockmap.BackupInfo, err error) {
	f, err := openFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return info, Errorf(syscall.EIO, "back up the index: %w", err)
	}
	info, err = s.index.Backup(&backupWriter{store: s, file: f}, s.rest)
	err = errors.Join(err, syncFile(f), f.Close())
	if err != nil && !errors.Is(err, errStopped) {
		err = Errorf(Errno(err), "%w", err)
	}
	return info, err
}

// rest rests as long as the work took that began at a time, so that guests have the disk; until the store is closed.
func (s *Store) rest(began time.Time) error {
	select {
	case <-s.stop:
		return errStopped
	case <-time.After(time.Since(began)):
		return nil
	}
}

// backupWriter writes a backup where there is room for it.
type backupWriter struct {
	store    *Store
	file     *os.File
	unsynced int
}

func (w *backupWriter) Write(p []byte) (n int, err error) {
	if err := w.store.space.take(int64(len(p))); err != nil {
		return 0, err
	}
	if err = faulty("write"); err == nil {
		n, err = w.file.Write(p)
	}
	if w.unsynced += n; err == nil && w.unsynced >= backupSync {
		w.unsynced, err = 0, syncFile(w.file)
	}
	return n, err
}
