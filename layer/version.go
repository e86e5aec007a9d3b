package layer

// Versions of the format: of a store, which FORMAT names, and of a session, which goes with a mount.
//
//	1    flushes commit to the index
//	2    small ones may be in the journal instead
//
// A program serves all of them up to the newest that it knows, and writes into a store or a session only what programs of
// its version understand. So one can go back to the program of before, until somebody has the store's version raised. What
// is new is made in the newest.

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

const formatJournal = 2 // the first version with a journal

// newest is the newest version that this program knows. The linker can set another one: to test with a program that is
// older, or newer.
var newest = "2"

// newestFormat is that as a number; only tests change it, while no store is open.
var newestFormat, _ = strconv.Atoi(newest)

// FormatInfo is how a store's format stands to the newest one that this program knows.
type FormatInfo struct {
	Version int    `json:"version"`
	Newest  int    `json:"newest"`
	Lacks   string `json:"lacks,omitempty"` // what the newest has and this one has not
}

// Format is that of the store.
func (s *Store) Format() FormatInfo {
	info := FormatInfo{Version: int(s.format.Load()), Newest: newestFormat}
	if info.Version < formatJournal && info.Version < info.Newest {
		info.Lacks = "a journal, so that small flushes take longer"
	}
	return info
}

// RaiseFormat has the store use what the format has in a newer version, and programs that do not know that refuse it from
// then on; EINVAL for an older version than it has, or one that this program does not know.
//
//	replace FORMAT, durably      crash: it is the old one, or the new one, of which nothing is used yet
//	use what the new one has
func (s *Store) RaiseFormat(version int) error {
	s.raising.Lock()
	defer s.raising.Unlock()
	switch now := int(s.format.Load()); {
	case version > newestFormat:
		return Errorf(syscall.EINVAL, "there is no version %d of the format that this program knows: it knows %s", version, knownFormats())
	case version < now:
		return Errorf(syscall.EINVAL, "the store has version %d of the format: it can't be made %d again", now, version)
	case version == now:
		return nil
	}
	if err := setVersion(s.dir, version); err != nil {
		return err
	}
	s.format.Store(int64(version))
	return nil
}

// setVersion has FORMAT say another version.
func setVersion(dir string, version int) error {
	f, err := readFormatFile(dir)
	if err != nil {
		return err
	}
	f.Version = version
	return writeFormat(dir, f)
}

// FormatOf is the version of a store that may be open, and for one that is yet to be made the newest. EINVAL for one that
// this program does not know.
func FormatOf(dir string) (version int, err error) {
	version, err = readFormat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return newestFormat, nil
	}
	return version, err
}

// formatBehind says whether a store has what a newer version has brought than FORMAT says: that one is an older copy, and programs
// that know no more would lose what is in the journal.
func formatBehind(version int, r storeRecord) bool {
	return version < formatJournal && r.Journal != ""
}

// refuseBehind has FORMAT say again what the store has, or refuses what this program does not know.
func (s *Store) refuseBehind(r storeRecord) error {
	version := int(s.format.Load())
	if !formatBehind(version, r) {
		return nil
	}
	if err := refuseNewer("store "+s.dir, formatJournal); err != nil {
		return err
	}
	if err := s.RaiseFormat(formatJournal); err != nil {
		return err
	}
	s.opts.Event("", "format-corrected", "was", version, "version", formatJournal, "why", "the index names a journal")
	return nil
}

func (k *check) checkFormat() {
	if version, err := readFormat(k.dir); err == nil && formatBehind(version, k.catalog.store) {
		k.found(formatName, "is an older copy: it has version %d, and the store has a journal, as of version %d; `snapfs check %s --repair`, or a mount, sets it right", version, formatJournal, k.dir)
	}
}

func (m *mender) mendFormat() error {
	version, err := readFormat(m.dir)
	if err != nil || !formatBehind(version, m.catalog.store) {
		return err
	}
	if err := setVersion(m.dir, formatJournal); err != nil {
		return err
	}
	m.did(formatName, "was an older copy, of version %d; it has version %d again", version, formatJournal)
	return nil
}

type format struct {
	Store   string `json:"store"` // "snapfs"
	Version int    `json:"version"`
	Index   string `json:"index,omitempty"` // the identity of the store's index, in hexadecimal
}

var formatSeal = sealForm{`{"sum":"`, `"`}

// decodeFormat reads FORMAT. sound is false if it is damaged, or that of something else.
func decodeFormat(text []byte) (f format, sound bool) {
	if err := json.Unmarshal(text, &f); err != nil || f.Store != "snapfs" || f.Version < 1 {
		return f, false
	}
	if sealed, sound := formatSeal.verify(formatName, text); sealed {
		return f, sound
	}
	older, err := json.Marshal(f) // writes it just so
	return f, err == nil && bytes.Equal(older, bytes.TrimSpace(text))
}

// nameIndex has FORMAT say whose the index is, so that two files of one other store don't pass for the store's own. A FORMAT that
// does not is that of a new store, or of an older program.
func (s *Store) nameIndex() error {
	identity, known := s.index.Identity()
	f, err := readFormatFile(s.dir)
	if err != nil || !known || f.Index != "" {
		return err
	}
	f.Index = hex.EncodeToString(identity[:])
	return writeFormat(s.dir, f)
}

// readFormat refuses, by name, a store that this program does not understand.
func readFormat(dir string) (version int, err error) {
	f, err := readFormatFile(dir)
	if err != nil {
		return 0, err
	}
	return f.Version, refuseNewer("store "+dir, f.Version)
}

func readFormatFile(dir string) (f format, err error) {
	path := filepath.Join(dir, formatName)
	if what := wrongIn(dir, formatName); what != "" {
		return f, Errorf(syscall.EIO, "%s %s; `snapfs check %s --repair` makes it anew", path, what, dir)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return f, Errorf(syscall.EIO, "read %s: %w", path, err)
	}
	f, sound := decodeFormat(data)
	if !sound {
		return f, Errorf(syscall.EINVAL, "%s is damaged: it does not say, with the right checksum, that this is a snapfs store; `snapfs check %s --repair` makes it anew", path, dir)
	}
	return f, nil
}

// refuseNewer refuses what is of a version that this program does not know.
func refuseNewer(what string, version int) error {
	if version <= newestFormat {
		return nil
	}
	return Errorf(syscall.EINVAL, "%s was made by a newer version: version %d; this program knows %s", what, version, knownFormats())
}

func knownFormats() string {
	switch newestFormat {
	case 1:
		return "1 only"
	case 2:
		return "1 and 2"
	}
	return fmt.Sprintf("1 to %d", newestFormat)
}

// writeFormat comes first when a store is made: a crash after it leaves an empty store, one before it an empty
// directory.
func writeFormat(dir string, f format) error {
	f.Store = "snapfs"
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, formatName)
	if err := writeSynced(path+".tmp", formatSeal.seal(formatName, data)); err != nil {
		return Errorf(syscall.EIO, "write %s: %w", path, err)
	}
	if err := rename(path+".tmp", path); err != nil {
		return Errorf(syscall.EIO, "write %s: %w", path, err)
	}
	return syncDirectory(dir)
}
