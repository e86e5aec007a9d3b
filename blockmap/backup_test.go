package blockmap

// Backups: what they hold, that damage to one is found, and the index that is made of one.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// backedUp makes an index of n keys with a counter, and a backup of it.
func backedUp(t *testing.T, n int) (x *Index, backup string, info BackupInfo) {
	t.Helper()
	dir := t.TempDir()
	x, err := openCounted(dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = x.Close() })
	for from := 0; from < n; from += 1000 {
		require.NoError(t, x.Update(func(tx *Tx) error {
			for i := from; i < min(n, from+1000); i++ {
				tx.Put(fmt.Appendf(nil, "k%06d", i), fmt.Appendf(nil, "%0100d", i))
			}
			tx.Put([]byte("kempty"), nil)
			tx.PutRecord(1, uint64(from), 2, &Record{Data: bitmapOf(1, 5)})
			return nil
		}))
	}
	backup = filepath.Join(dir, "backup")
	f, err := os.Create(backup)
	require.NoError(t, err)
	info, err = x.Backup(f, nil)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return x, backup, info
}

func bitmapOf(of ...int) (b Bitmap) {
	for _, i := range of {
		b.Set(i)
	}
	return b
}

func TestBackup(t *testing.T) {
	x, backup, info := backedUp(t, 3000)
	content := everything(t, x)
	require.Len(t, content, 3001)
	require.Equal(t, x.Committed(), info.Commit)
	require.NoError(t, x.Update(func(tx *Tx) error { // not in the backup any more
		tx.Put([]byte("kempty"), []byte("later"))
		tx.Delete([]byte("k000001"))
		return nil
	}))
	verified, err := VerifyBackup(backup)
	require.NoError(t, err)
	require.Equal(t, info, verified)

	const after = 1 << 40
	dir := filepath.Join(t.TempDir(), "index")
	restored, err := OpenBackup(dir, backup, after, Options{})
	require.NoError(t, err)
	require.Equal(t, content, everything(t, restored))
	require.NoError(t, restored.View(func(tx *Tx) error {
		r, err := tx.Record(1, 2000, 2)
		require.Equal(t, bitmapOf(1, 5), r.Data)
		return err
	}))
	require.Greater(t, restored.Committed(), uint64(after))
	require.NoError(t, restored.Close())

	// It is an index like any other, and of the same identity: the counter of the old one is behind it.
	counter := filepath.Join(filepath.Dir(backup), counterName)
	require.NoError(t, x.Close())
	for range 2 {
		again, err := Open(dir, Options{Counter: counter})
		require.NoError(t, err)
		require.Equal(t, content, everything(t, again))
		require.NoError(t, again.Update(func(tx *Tx) error { tx.Put([]byte("a"), nil); return nil }))
		require.NoError(t, again.Close())
	}
	_, err = Open(filepath.Join(filepath.Dir(backup), "index"), Options{Counter: counter})
	require.ErrorIs(t, err, ErrDamaged, "the old one lacks commits now")
}

// Updates go on while a backup is made, and none of them is in it.
func TestBackupIsOfOneMoment(t *testing.T) {
	x, _, _ := backedUp(t, 2000)
	content := everything(t, x)
	var out bytes.Buffer
	n := 0
	_, err := x.Backup(writerFunc(func(p []byte) (int, error) {
		n++
		require.NoError(t, x.Update(func(tx *Tx) error {
			tx.Put(fmt.Appendf(nil, "k%06d", 1999-n), []byte("new"))
			return nil
		}))
		return out.Write(p)
	}), nil)
	require.NoError(t, err)
	require.Greater(t, n, 3)
	path := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, os.WriteFile(path, out.Bytes(), 0o600))
	restored, err := OpenBackup(filepath.Join(t.TempDir(), "index"), path, 0, Options{})
	require.NoError(t, err)
	require.Equal(t, content, everything(t, restored))
	require.NoError(t, restored.Close())
}

func TestBackupEndsWithItsWriter(t *testing.T) {
	x, _, _ := backedUp(t, 2000)
	full := errors.New("no room")
	_, err := x.Backup(writerFunc(func([]byte) (int, error) { return 0, full }), nil)
	require.ErrorIs(t, err, full)
	for n := range 4 {
		_, err = x.Backup(new(bytes.Buffer), func(time.Time) error {
			if n--; n < 0 {
				return full
			}
			return nil
		})
		require.ErrorIs(t, err, full)
	}
}

// A table that was damaged while the index is open is found, and not backed up as if it were whole.
func TestBackupOfADamagedIndex(t *testing.T) {
	x, _, _ := backedUp(t, 1000)
	dir := x.db.Opts().Dir
	require.NoError(t, x.Close())
	x, err := Open(dir, Options{Counter: filepath.Join(filepath.Dir(dir), counterName)})
	require.NoError(t, err)
	defer x.Close()
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("spoiled"), 500)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = x.Backup(new(bytes.Buffer), nil)
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, tables[0])
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

func TestDamagedBackup(t *testing.T) {
	_, backup, _ := backedUp(t, 1000)
	whole, err := os.ReadFile(backup)
	require.NoError(t, err)
	refused := func(data []byte, what string, args ...any) {
		t.Helper()
		require.NoError(t, os.WriteFile(backup, data, 0o600))
		_, err := VerifyBackup(backup)
		require.ErrorIs(t, err, ErrBackup, what, args)
		dir := filepath.Join(t.TempDir(), "index")
		_, err = OpenBackup(dir, backup, 0, Options{})
		require.ErrorIs(t, err, ErrBackup)
		require.ErrorContains(t, err, backup)
		require.NoDirExists(t, dir)
	}
	for n := 0; n < len(whole); n += 1 + len(whole)/40 {
		refused(whole[:n], "cut off at %d", n)
	}
	for i := 0; i < len(whole); i += 1 + len(whole)/40 {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		refused(flipped, "flipped at %d", i)
	}
	for i := len(whole) - backupTrailer; i < len(whole); i++ {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 0x80
		refused(flipped, "flipped at %d", i)
	}
	refused(append(bytes.Clone(whole), 0), "longer")
}
