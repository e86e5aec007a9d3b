package blockmap

// This file writes a backup of the index, and makes an index of one.
//
//	lists of entries    length, 8 bytes little endian | a KVList, as in Badger's own backups; in order of keys
//	trailer             magic, 8 bytes | identity, 16 | number of the last commit, 8 | length of the lists, 8 |
//	                    sha256 of all before it, 32      little endian
//
// Badger's own Backup is not used: it leaves out what it can't read without a word, and fills up to a gigabyte of buffers
// where its writer is slow. Here one list of entries at a time is in memory.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"google.golang.org/protobuf/proto"
)

// ErrBackup says that a backup is cut off, was changed, or is none.
var ErrBackup = errors.New("damaged backup")

const (
	backupMagic   = "snapfsi1"
	backupTrailer = len(backupMagic) + 16 + 8 + 8 + sha256.Size
	backupList    = 64 << 10 // bytes of entries in a list, about
	maxBackupList = 4 << 20  // no list is longer: a list's last entry may have 1 MiB
)

// BackupInfo says what a backup is of.
type BackupInfo struct {
	Identity [16]byte // of the index
	Commit   uint64   // the last one that is in it
	Bytes    int64    // of entries
}

// Committed is the number of the last commit that is on disk.
func (x *Index) Committed() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.committed
}

// Size is about how many bytes a backup takes.
func (x *Index) Size() (bytes int64) {
	for _, level := range x.db.Levels() {
		bytes += level.Size
	}
	return bytes + memTableSize
}

// Backup writes all that is committed when it begins. Updates go on meanwhile. It ends with w's error, if w has one, and
// with ErrDamaged if files of the index have changed behind its back: a backup of that would be none. rest, if there is one,
// is called now and then with when the work began that was done since the last rest; its error ends it, too.
func (x *Index) Backup(w io.Writer, rest func(began time.Time) error) (info BackupInfo, err error) {
	if rest == nil {
		rest = func(time.Time) error { return nil }
	}
	if err := x.verifyTables(rest); err != nil {
		return info, fmt.Errorf("back up the index: %w", err)
	}
	version, err := x.beginView()
	if err != nil {
		return info, err
	}
	defer x.endView(version)
	txn := x.readVersion(version)
	defer txn.Discard()
	mark, err := (&Tx{base: txn}).Get(markKey)
	if err != nil {
		return info, err
	}
	info.Commit = version
	copy(info.Identity[:], mark)
	b := &backupWriter{out: w, sum: sha256.New(), rest: rest, began: time.Now()}
	if err := b.entries(txn); err != nil {
		return info, fmt.Errorf("back up the index: %w", err)
	}
	info.Bytes = b.written
	if err := b.trailer(info); err != nil {
		return info, fmt.Errorf("back up the index: %w", err)
	}
	return info, nil
}

// verifyTables reads all tables through.
func (x *Index) verifyTables(rest func(time.Time) error) error {
	for _, t := range x.db.Tables() {
		began, missing := time.Now(), false
		name := table.NewFilename(t.ID, x.db.Opts().Dir)
		err := x.host.withFile(name, func(data []byte) error {
			_, err := verifyTable(data)
			return err
		})
		if err != nil {
			_, statErr := os.Stat(name)
			missing = errors.Is(statErr, fs.ErrNotExist) // a compaction has replaced it
		}
		if err != nil && !missing {
			return err
		}
		if err := rest(began); err != nil {
			return err
		}
	}
	return nil
}

type backupWriter struct {
	out     io.Writer
	sum     hash.Hash
	written int64
	list    pb.KVList
	size    int // of the entries in list
	rest    func(time.Time) error
	began   time.Time // the work since the last rest
}

func (b *backupWriter) Write(p []byte) (int, error) {
	b.sum.Write(p) // never fails
	n, err := b.out.Write(p)
	b.written += int64(n)
	return n, err
}

func (b *backupWriter) entries(txn *badger.Txn) error {
	it := txn.NewIterator(badger.IteratorOptions{})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if bytes.HasPrefix(item.Key(), []byte("!badger!")) {
			continue
		}
		value, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		b.list.Kv = append(b.list.Kv, &pb.KV{Key: item.KeyCopy(nil), Value: value, Version: item.Version()})
		if b.size += len(item.Key()) + len(value); b.size >= backupList {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	return b.flush()
}

func (b *backupWriter) flush() error {
	if len(b.list.Kv) == 0 {
		return nil
	}
	data, err := proto.Marshal(&b.list)
	if err != nil {
		return err
	}
	b.list.Kv, b.size = b.list.Kv[:0], 0
	if _, err = b.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(data))), data...)); err == nil {
		err = b.rest(b.began)
		b.began = time.Now()
	}
	return err
}

func (b *backupWriter) trailer(info BackupInfo) error {
	p := append([]byte(backupMagic), info.Identity[:]...)
	p = binary.LittleEndian.AppendUint64(p, info.Commit)
	p = binary.LittleEndian.AppendUint64(p, uint64(info.Bytes))
	if _, err := b.Write(p); err != nil {
		return err
	}
	_, err := b.Write(b.sum.Sum(nil))
	return err
}

// VerifyBackup reads a backup through; ErrBackup if it is not whole.
func VerifyBackup(path string) (info BackupInfo, err error) {
	f, err := os.Open(path)
	if err != nil {
		return info, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return info, err
	}
	if size < int64(backupTrailer) {
		return info, fmt.Errorf("%w: it is cut off", ErrBackup)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size-sha256.Size)); err != nil {
		return info, err
	}
	p := make([]byte, backupTrailer)
	if _, err := f.ReadAt(p, size-int64(len(p))); err != nil {
		return info, err
	}
	rest, magic := bytes.CutPrefix(p, []byte(backupMagic))
	switch {
	case !magic:
		return info, fmt.Errorf("%w: it is cut off, or none", ErrBackup)
	case !bytes.Equal(sum.Sum(nil), p[len(p)-sha256.Size:]):
		return info, fmt.Errorf("%w: its checksum does not match", ErrBackup)
	}
	copy(info.Identity[:], rest)
	info.Commit = binary.LittleEndian.Uint64(rest[16:])
	info.Bytes = int64(binary.LittleEndian.Uint64(rest[24:]))
	if info.Bytes != size-int64(backupTrailer) {
		return info, fmt.Errorf("%w: a wrong length", ErrBackup)
	}
	return info, nil
}

// OpenBackup makes an index of a backup in dir, which must not be there yet, and opens it. It has a commit of a higher
// number than after, and goes on from there; o.Counter is not used. Once it is closed, all of it is on disk.
func OpenBackup(dir, backup string, after uint64, o Options) (*Index, error) {
	info, err := VerifyBackup(backup)
	if err != nil {
		return nil, fmt.Errorf("backup %s: %w", backup, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	o.Counter = ""
	x, err := Open(dir, o)
	if err != nil {
		return nil, err
	}
	x.publish(max(after, info.Commit)) // nothing was committed yet
	if err := x.fill(backup, info); err != nil {
		return nil, errors.Join(fmt.Errorf("backup %s: %w", backup, err), x.Close())
	}
	return x, nil
}

// fill puts all entries of a backup into an empty index.
func (x *Index) fill(backup string, info BackupInfo) error {
	f, err := os.Open(backup)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.LimitReader(f, info.Bytes), 1<<20)
	for done := false; !done; {
		err := x.Update(func(tx *Tx) error {
			for !done && tx.Size() < x.maxTx/2 {
				list, err := readList(r)
				if err == io.EOF {
					done = true
				} else if err != nil {
					return err
				}
				for _, kv := range list.GetKv() {
					tx.put(kv.Key, append([]byte{}, kv.Value...)) // an empty value is one, too
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readList returns io.EOF behind the last one.
func readList(r io.Reader) (*pb.KVList, error) {
	var length [8]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxBackupList {
		return nil, fmt.Errorf("%w: a list of %d bytes", ErrBackup, n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	list := new(pb.KVList)
	if err := proto.Unmarshal(data, list); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return list, nil
}
