package blockmap

// This file looks at Badger's files before Badger does, and touches nothing. Badger believes a damaged log to end where it
// can't be read on and cuts it off there, and removes tables that its list of tables does not name: what was committed would
// be gone without a word. Here it is found, because commits are numbered without a gap:
//
//   - the list of tables is whole, and so is each table on it;
//   - the first commit in the oldest log follows the newest in the tables, or is in one;
//   - each log goes on where the one before it ends;
//   - the last commit of all is not before the one that the counter names.

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sys/unix"
)

// ErrDamaged says that files of the index were changed or lost from outside. Nothing was touched.
var ErrDamaged = errors.New("damaged index")

// ErrNoCounter says that the file with the number of the last commit is gone or unreadable. It is an ErrDamaged, too.
var ErrNoCounter = fmt.Errorf("%w: no counter of commits", ErrDamaged)

var (
	errCutOff = errors.New("cut off, or a wrong length")
	errSum    = errors.New("checksum mismatch")
	errHeader = errors.New("damaged header")
)

// survey is what the files of an index come to.
type survey struct {
	dir      string
	tables   map[uint64]badger.TableManifest
	unlisted []string  // tables that the list does not have
	marks    []mark    // of the tables that have one
	identity *[16]byte // of the index, as its marks have it; nil: it has none
	marked   string    // the first file that has it
	stored   uint64    // the last commit that is in a table
	logs     []soundLog
	last     uint64 // the last commit that is there, with all before it
	foreign  string // the first log of another index
	unread   string // the first log in which there is something, but no commit
	bare     string // the first log that has no commits
	strays   []Stray
	damage   error // to the logs
}

// soundLog is a log that has commits, and where the last of them ends.
type soundLog struct {
	name        string
	first, last uint64
	end         int
}

// Stray is a file in an index's directory that has nothing to do with it.
type Stray struct {
	Name    string // in the directory
	Text    string // what it is
	Foreign bool   // no crash leaves such
	Instead bool   // it is a log, where there may have been one of the index's own
}

// survey looks at the index in dir, which is to have that identity; nil: it is not known. Damage to its list of tables and to those is an
// error, for without them there is nothing; damage to its logs is in what it returns.
func (h host) survey(dir string, expected *[16]byte) (*survey, error) {
	tables, err := h.tablesOf(dir)
	if err != nil {
		return nil, err
	}
	s := &survey{dir: dir, tables: tables}
	if err := errors.Join(s.listOthers(dir), s.listUnlisted(dir), s.listValueLogs(dir)); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(tables)) {
		name := table.NewFilename(id, dir)
		if err := h.surveyTable(name, s); err != nil {
			if _, gone := os.Lstat(name); errors.Is(gone, fs.ErrNotExist) {
				err = s.blameList(err)
			}
			return nil, err
		}
	}
	s.last = s.stored
	if err := s.identify(h, expected); err != nil {
		return nil, err
	}
	return s, h.surveyLogs(dir, cmp.Or(s.identity, expected), s)
}

func (h host) surveyTable(name string, s *survey) error {
	err := h.withFile(name, func(data []byte) error {
		newest, err := verifyTable(data)
		s.stored = max(s.stored, newest)
		return err
	})
	if err != nil {
		return err
	}
	identity, err := tableMark(name)
	if identity != nil {
		s.marks = append(s.marks, mark{name, *identity})
	}
	return err
}

// listOthers lists what is no file, and stands where one of Badger's is to be that is neither a table nor a log.
func (s *survey) listOthers(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		name := entry.Name()
		if ext := filepath.Ext(name); ext != ".sst" && ext != ".mem" && (ext != ".vlog" || name == ownValueLog) && OwnName(name) && !entry.Type().IsRegular() {
			s.stray(name, true, "is no file")
		}
	}
	return err
}

// listUnlisted lists tables that are not on the list. What is not named as Badger names them, it would stumble over.
func (s *survey) listUnlisted(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	for _, path := range names {
		name := filepath.Base(path)
		id, _ := table.ParseFileID(strings.TrimLeft(name, "-"))
		if !OwnName(name) || name != table.IDToFilename(id) {
			s.stray(name, true, "is nothing of an index's")
		} else if _, listed := s.tables[id]; !listed {
			s.unlisted = append(s.unlisted, path)
		}
	}
	return nil
}

// listValueLogs finds value logs beside the one that each start makes anew, as values lie beside their keys.
func (s *survey) listValueLogs(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
	for _, path := range names {
		if name := filepath.Base(path); name != ownValueLog {
			s.stray(name, false, "is a value log, and an index here has %s only, in which there is nothing", ownValueLog)
		}
	}
	return err
}

func (s *survey) stray(name string, foreign bool, format string, args ...any) {
	s.strays = append(s.strays, Stray{Name: name, Text: fmt.Sprintf(format, args...), Foreign: foreign})
}

const ownValueLog = "000001.vlog"

// ownNames are those of all files that an index may have, those that a crash leaves included.
var ownNames = regexp.MustCompile(`^(MANIFEST(-REWRITE)?|(REWRITE-)?KEYREGISTRY|DISCARD|LOCK|[0-9]{5,}\.mem|[0-9]{6,}\.(sst|vlog))$`)

// OwnName says whether a file in an index's directory may be one of its own.
func OwnName(name string) bool { return ownNames.MatchString(name) }

// tablesOf reads the list of tables.
func (h host) tablesOf(dir string) (map[uint64]badger.TableManifest, error) {
	name := filepath.Join(dir, badger.ManifestFilename)
	f, err := h.openOwn(name)
	if errors.Is(err, fs.ErrNotExist) {
		for _, pattern := range []string{"*.sst", memPattern} {
			if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
				return nil, fmt.Errorf("%w: %s is missing", ErrDamaged, name)
			}
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// A last entry that is not whole was never synced, and Badger cuts it off. Were it one that was whole once, its table
	// or the log that it replaced would be missed below.
	list, _, err := badger.ReplayManifestFile(f, 0, badgerOptions(dir))
	if err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n") // one of them goes on with a link
		return nil, fmt.Errorf("%w: %s: %s", ErrDamaged, name, line)
	}
	return list.Tables, nil
}

// openOwn opens a file of an index. What is none, as a link or a pipe, is an ErrDamaged.
func (h host) openOwn(name string) (*os.File, error) {
	if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is no file", ErrDamaged, name)
	}
	return h.open(name, os.O_RDONLY)
}

// withFile calls fn with the content of a file; what is wrong with it is an ErrDamaged that names the file.
func (h host) withFile(name string, fn func(data []byte) error) error {
	f, err := h.openOwn(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, name)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var data []byte
	if info.Size() > 0 {
		data, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		defer func() { _ = unix.Munmap(data) }()
	}
	if err := fn(data); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	return nil
}
