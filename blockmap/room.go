package blockmap

// This file sees to it that Badger's files have room. Badger maps them and writes through the mapping, where a full disk is
// not an error but the death of the process (SIGBUS). So what will be written to a log is allocated as soon as that is there;
// the log of the next memtable is made ahead; and what it takes to replace a full memtable, a table of its content and one
// compaction, is asked for before the memtable is full: where there is no room, Updates are refused instead.

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// ErrFull says that the file system has no room for what the index needs next. Nothing was written, and the same Update may
// succeed once there is room.
var ErrFull = errors.New("no room for the index")

// Sizes in bytes. A memtable is replaced when its entries have memTableSize, which the last transaction may pass.
const (
	logSize       = memTableSize + memTableSize/6
	tableOverhead = 2 << 20                      // of a table, beside the content of a memtable
	tableSize     = memTableSize + tableOverhead // of a memtable's content, in a file
	levelsSize    = 64 << 20                     // at most so much of the lower levels does one compaction write anew
	beforeAsking  = memTableSize - 8<<20         // entries of a memtable from which on there must be room to replace it
	beforeTaking  = memTableSize - 2<<20         // from here on that is about to be taken
	beforeNoMore  = memTableSize - 1<<20         // from here on without room nothing goes in any more
	nodeOverhead  = 48                           // of an entry in a memtable, at most, on average
	headersSize   = int64(1<<16) + 1<<20         // of the value log, which has nothing but a header, and Badger's list of such logs
	pollAfter     = memTableSize - 12<<20        // entries from which on to look whether Badger has replaced the memtable
	memPattern    = "*.mem"
)

// room is what the index has of the file system, and may take. It is the writer's alone once the index is open.
type room struct {
	dir    string
	host   host
	ask    func(bytes int64, now bool) bool
	db     *badger.DB
	taking atomic.Bool // what was asked for is about to be taken
	filled int64       // bytes of entries in the memtable, a little more than there are
	spare  *os.File    // a log without a name that only holds room, while the index is being opened
	late   bool        // the next log is to be made once Badger has written what opening takes
	next   *os.File    // the log of the next memtable: no bytes yet, which makes Badger take it for a new one, but all its room
}

func newRoom(dir string, o Options) *room {
	if o.Room == nil {
		o.Room = func(int64, bool) bool { return true }
	}
	return &room{dir: dir, host: o.Fault, ask: o.Room}
}

// makeNext makes the log of the next memtable.
func (r *room) makeNext() {
	r.late = false
	logs, _ := filepath.Glob(filepath.Join(r.dir, memPattern))
	last := 0
	for _, name := range logs {
		var id int
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.mem", &id); err == nil {
			last = max(last, id)
		}
	}
	name := logName(r.dir, last+1)
	f, err := r.host.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return
	}
	if r.host.allocate(f, logSize) != nil {
		_ = f.Close()
		_ = os.Remove(name)
		return
	}
	r.next = f
}

// wrote counts what was committed, and prepares for the next memtable when Badger has begun this one.
func (r *room) wrote(p *pending) {
	size := int64(p.size) - int64(len(p.values))*(entryOverhead-nodeOverhead)
	r.filled += size
	if r.filled < pollAfter || r.next == nil {
		return
	}
	if info, err := r.next.Stat(); err != nil || info.Size() == 0 {
		return
	}
	_ = r.next.Close()
	r.filled, r.next = size, nil
	if r.ask(r.need(), true) { // the old one's table is still to be written, and must not lose its room to a log
		r.makeNext()
	}
	r.taking.Store(false) // by now there is a log more
}

// left is how many bytes may be committed, as the file system is now. What gives room back may go on where others may not,
// while the memtable lasts.
func (r *room) left(freeing bool) int64 {
	if r.late && r.settled() {
		r.makeNext()
	}
	if r.filled < beforeAsking {
		return math.MaxInt64
	}
	if r.next == nil {
		r.makeNext()
	}
	now := r.filled >= beforeTaking
	if now {
		r.taking.Store(true) // first: what is given up for it must not be taken back
	}
	switch {
	case r.ask(r.need(), now):
		if now && r.next == nil {
			r.makeNext()
		}
		return math.MaxInt64
	case freeing:
		return beforeNoMore - r.filled
	}
	return 0
}

// need is what replacing the memtable takes: a table of it, and the compaction that this sets off.
func (r *room) need() int64 {
	n := int64(tableSize)
	if r.next == nil {
		n += logSize
	}
	var lower int64
	for _, level := range r.db.Levels() {
		if level.Level == 0 {
			n += level.Size + tableSize
		} else {
			lower += level.Size
		}
	}
	return n + min(lower, levelsSize)
}

// settled says whether Badger has written all that was asked for, and removed what that replaced.
func (r *room) settled() bool {
	if r.taking.Load() {
		return false
	}
	logs, _ := filepath.Glob(filepath.Join(r.dir, memPattern))
	used := 0
	for _, name := range logs {
		if info, err := os.Stat(name); err == nil && info.Size() > 0 {
			used++
		}
	}
	files, _ := filepath.Glob(filepath.Join(r.dir, "*.sst"))
	levels := r.db.Levels()
	tables := 0
	for _, level := range levels {
		tables += level.NumTables
	}
	return used <= 1 && levels[0].NumTables == 0 && len(files) == tables
}

// close removes the log that no memtable came for.
func (r *room) close() error {
	if r.next == nil {
		return nil
	}
	err := r.next.Close()
	if info, statErr := os.Stat(r.next.Name()); statErr == nil && info.Size() == 0 {
		err = errors.Join(err, r.host.remove(r.next.Name()))
	}
	r.next = nil
	return err
}

// allocateFile allocates the first size bytes of a file, as far as it reaches.
func (r *room) allocateFile(name string, size int64) error {
	f, err := r.host.open(name, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Badger is done with it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return r.host.allocate(f, min(size, info.Size()))
}
