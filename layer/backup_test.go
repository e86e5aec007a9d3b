package layer

// Backups of the index: when one is made, which are kept, and what keeps one from being made.

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

func TestBackupsAreMadeWhileTheStoreIsOpen(t *testing.T) {
	every, look := backupEvery, backupLook
	t.Cleanup(func() { backupEvery, backupLook = every, look })
	backupEvery, backupLook = 0, time.Millisecond
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	for i := range 5 {
		write(t, f, blocksOf(byte(i), 1), 0)
		flush(t, f)
		snapshot(t, v, string(rune('a'+i)))
		done := s.index.Committed()
		require.Eventually(t, func() bool {
			backups, err := listBackups(s.dir)
			return err == nil && len(backups) > 0 && backups[0].commit >= done
		}, time.Minute, time.Millisecond)
	}
	require.NoError(t, s.Close())
	backups, err := listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, backupsKept)
	for _, b := range backups {
		info, err := blockmap.VerifyBackup(b.path)
		require.NoError(t, err)
		require.Equal(t, b.commit, info.Commit)
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, backupName))
	require.NoError(t, err)
	require.Len(t, entries, backupsKept, "nothing half made is left")
	requireSound(t, s.dir)
}

func TestBackupOfWhatDidNotChange(t *testing.T) {
	s := newStore(t, Options{})
	makeVM(t, s, "web")
	now := time.Now()
	require.NoError(t, s.backUpIfDue(now))
	require.NoError(t, s.backUpIfDue(now.Add(2*backupEvery)))
	backups, err := listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, 1)
	makeVM(t, s, "db")
	require.NoError(t, s.backUpIfDue(now.Add(backupEvery/2)))
	backups, err = listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, 1, "it is not due yet")
	for i := range 5 {
		makeVM(t, s, string(rune('a'+i)))
	}
	require.NoError(t, s.backUpIfDue(now.Add(backupSoon+time.Second)))
	backups, err = listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, 2, "most of the store is new")
	makeVM(t, s, "later")
	require.NoError(t, s.backUpIfDue(now.Add(2*backupEvery)))
	backups, err = listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, 3)
}

func TestWhichBackupsAreKept(t *testing.T) {
	now := time.Date(2026, 5, 10, 2, 30, 0, 0, time.UTC)
	var kept []backupFile
	for i := range 200 { // one an hour
		at := now.Add(time.Duration(i-199) * time.Hour)
		kept = append([]backupFile{{at: at, commit: uint64(i)}}, kept...)
		for _, b := range surplus(kept) {
			for j := range kept {
				if kept[j] == b {
					kept = append(kept[:j:j], kept[j+1:]...)
					break
				}
			}
		}
	}
	var names []string
	for _, b := range kept {
		names = append(names, b.at.Format("02T15:04"))
	}
	require.Equal(t, []string{"10T02:30", "10T01:30", "10T00:30", "09T23:30", "08T23:30"}, names)
}

func TestBackupThatFails(t *testing.T) {
	var failing atomic.Value
	failing.Store("")
	fault = func(kind string) error {
		if kind == failing.Load() {
			return syscall.EIO
		}
		return nil
	}
	s := newStore(t, Options{})
	t.Cleanup(func() { // before the store may be open no more
		_ = s.Close()
		fault = nil
	})
	makeVM(t, s, "web")
	for _, kind := range []string{"mkdir", "create", "write", "sync", "rename"} {
		failing.Store(kind)
		require.Error(t, s.backUpIfDue(time.Now()), kind)
		failing.Store("")
		backups, err := listBackups(s.dir)
		require.NoError(t, err)
		require.Empty(t, backups, kind)
		require.NoFileExists(t, filepath.Join(s.dir, backupName, "index.tmp"))
	}
	require.NoError(t, s.backUpIfDue(time.Now()))
	backups, err := listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, 1)
}

func TestBackupBelowTheReserve(t *testing.T) {
	var skipped atomic.Int32
	s := newStore(t, Options{Reserve: Reserve{Bytes: 1 << 60}, Event: func(_, event string, _ ...any) {
		if event == "index-backup-skipped" {
			skipped.Add(1)
		}
	}})
	makeVM(t, s, "web")
	for range 3 {
		require.NoError(t, s.backUpIfDue(time.Now()))
	}
	require.EqualValues(t, 1, skipped.Load(), "it is told once")
	require.NoDirExists(t, filepath.Join(s.dir, backupName))
}

// A backup that is under way ends when the store is closed.
func TestBackupEndsWithTheStore(t *testing.T) {
	s := newStore(t, Options{})
	for i := range 300 {
		makeVM(t, s, "vm"+strings.Repeat("x", 200)+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	close(s.stop)
	s.closing.Do(func() {}) // closed below by hand
	require.ErrorIs(t, s.backUp(time.Now()), errStopped)
	backups, err := listBackups(s.dir)
	require.NoError(t, err)
	require.Empty(t, backups)
	s.reclaim.close()
	s.work.end()
	require.NoError(t, s.release())
}
