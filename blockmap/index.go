package blockmap

// This file opens the index, closing.go closes it; view.go reads, writer.go writes.

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Errors of the index. They come wrapped: use errors.Is.
var (
	ErrClosed   = errors.New("index is closed")
	ErrFailed   = errors.New("index has failed")
	ErrTooLarge = errors.New("too much for one transaction")
)

const (
	memTableSize = 32 << 20 // bytes

	// baseTableSize is how large a table is in bytes, twice as large on each further level. A compaction has up to 13 of them in
	// memory, each in twice its size, while it waits for the disk: with Badger's own 2 MiB, 145 MiB on a slow one.
	baseTableSize = 1 << 20
	valueLogSize  = 16 << 20 // bytes
)

// Options of an index. The zero value is useful.
type Options struct {
	// Failed is called once, when a commit has failed and before anybody who waits for it hears of that. It must return
	// soon, and call neither Update nor Close. No View shows what failed, but it may or may not be there after a restart.
	Failed func(error)

	// Room is asked whether the file system has room for so many bytes; with now, they are about to be taken. Nil: always. It
	// is called by one goroutine at a time, and must call neither Update nor Close.
	Room func(bytes int64, now bool) bool

	// Counter is the path of a file, outside of the index, with the number of the last commit: by it an index that has
	// lost commits is recognised. It is made with the index; none is kept if the path is empty.
	Counter string

	// Identity is that of the store's index, as something else than the counter has it: files of another one are refused, whatever
	// the counter says. Nil: it is not known.
	Identity *[16]byte

	// Aside is called for each file in the index's directory that would be removed or read, and is no part of the index,
	// before anything else is done, and has to take it out of there. Nil: what no crash leaves is an ErrDamaged.
	Aside func(Stray) error

	// Trusted says that a process that ended a moment ago had the index open, so that its files need not be read through
	// before they are opened: reading takes time while guests wait.
	Trusted bool

	// Commit, if there is one, is called for each commit with what carries it out, and what it returns is what came of it:
	// so tests make commits fail.
	Commit func(commit func() error) error

	// Fault, if there is one, is asked before each thing that is asked of the host's file system: by tests, which make it
	// fail. See host.
	Fault func(kind, path string) error
}

// Index is the database of a store. All its methods may be called at the same time.
type Index struct {
	db      *badger.DB
	private string // directory of one that is open for reading only
	host    host
	maxTx   int
	notify  func(error)
	commit  func(txn *badger.Txn, version uint64) error // Badger's; tests make it fail

	mu        sync.Mutex // guards what follows; nothing else is locked under it
	wake      sync.Cond  // the writer waits here for queue or closed
	queue     []*update
	closed    bool
	failure   error
	committed uint64         // version of the newest commit on disk; only the writer changes it
	reading   map[uint64]int // Views under way by the version they read
	views     sync.WaitGroup // Views under way; Add only under mu and before closed

	log     *commitLog // the writer's, until it is done
	room    *room      // likewise
	counter *counter   // likewise; nil: none is kept

	complaints complaints
	writerDone chan struct{}
	closeOnce  sync.Once
	closeErr   error
}

// Open opens the index in dir, and makes it if there is none. The caller holds the store's lock: whatever a crash left
// half made in dir is removed.
func Open(dir string, o Options) (*Index, error) {
	if err := host(o.Fault).mkdir(dir); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	x, err := openDir(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return x, nil
}

func openDir(dir string, o Options) (_ *Index, err error) {
	h := host(o.Fault)
	var c *counter
	found := false
	if o.Counter != "" {
		if c, found, err = h.openCounter(o.Counter); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			_ = c.close()
		}
	}()
	if !o.Trusted {
		if err := h.verify(dir, c, found, o); err != nil {
			return nil, err
		}
	}
	r := newRoom(dir, o)
	defer r.dropSpare()
	if err := r.beforeOpen(); err != nil {
		return nil, err
	}
	if err := h.removeLeftovers(dir); err != nil {
		return nil, err
	}
	x, err := open(badgerOptions(dir), o, r)
	if err != nil {
		return nil, err
	}
	if c != nil {
		x.counter = c
		if err := x.verifyCounter(o.Counter, found); err != nil {
			return nil, errors.Join(err, r.close(), x.log.close(), x.closeBadger())
		}
	}
	go x.writer()
	return x, nil
}

// verify refuses an index that is damaged, and has set aside what lies in dir and is no part of it.
func (h host) verify(dir string, c *counter, found bool, o Options) error {
	if !found {
		c = nil
	}
	s, err := h.survey(dir, cmp.Or(o.Identity, c.identity()))
	if err != nil {
		return err
	}
	err = s.verifyAll(c, o)
	if err == nil && o.Counter != "" && !found && s.identity != nil {
		err = noCounter(o.Counter)
	}
	if err != nil {
		return err
	}
	aside, strays := o.Aside, s.strays
	if len(s.unlisted) > 0 && aside != nil {
		strays = s.judged(dir)
	}
	for _, stray := range strays {
		switch {
		case aside != nil:
			err = aside(stray)
		case stray.Foreign:
			err = fmt.Errorf("%w: %s %s", ErrDamaged, filepath.Join(dir, stray.Name), stray.Text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// open opens Badger. The writer is still to be started.
func open(b badger.Options, o Options, r *room) (*Index, error) {
	heard := make(complaints, 1)
	db, err := badger.OpenManaged(b.WithLogger(heard))
	if err != nil {
		return nil, err
	}
	x := &Index{
		complaints: heard,
		db:         db,
		host:       r.host,
		room:       r,
		maxTx:      maxTransaction(db),
		notify:     o.Failed,
		reading:    make(map[uint64]int),
		writerDone: make(chan struct{}),
	}
	x.wake.L = &x.mu
	x.commit = x.committer(o.Commit)
	if x.log, err = r.host.openCommitLog(b.Dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	x.publish(db.MaxVersion())
	if err := r.opened(db); err != nil {
		return nil, errors.Join(err, x.log.close(), x.closeBadger())
	}
	return x, nil
}

// committer returns what commits a transaction and makes it durable.
func (x *Index) committer(around func(func() error) error) func(*badger.Txn, uint64) error {
	commit := func(txn *badger.Txn, version uint64) error {
		if err := txn.CommitAt(version, nil); err != nil {
			return err
		}
		return x.log.sync()
	}
	if around == nil {
		return commit
	}
	return func(txn *badger.Txn, version uint64) error {
		return around(func() error { return commit(txn, version) })
	}
}

// removeLeftovers removes what Badger makes anew and may stumble over. Empty logs of memtables: a crash between making such a
// file and giving it its size leaves one, and nothing was ever in it. And what has nothing in it here: the value logs, their
// statistics, and the list of encryption keys.
func (h host) removeLeftovers(dir string) error {
	for _, pattern := range []string{memPattern, "*.vlog", "DISCARD", badger.KeyRegistryFileName} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if info, err := os.Stat(name); pattern == memPattern && (err != nil || info.Size() > 0) {
				continue
			}
			if err := h.remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// badgerOptions: commits are synced by commitLog; values lie beside their keys; one writer, so no conflicts to detect; memory is
// a few memtables and no caches, as blocks and table indexes are read from the page cache through mappings. Each memtable's
// table is compacted at once, so that a compaction never needs room for more than one of them.
func badgerOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(false).
		WithMemTableSize(memTableSize).
		WithBaseTableSize(baseTableSize).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithNumLevelZeroTables(1).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithValueLogFileSize(valueLogSize).
		WithValueThreshold(maxValue).
		WithMetricsEnabled(false).
		WithLogger(nil)
}

// Settled says whether the index has written all that it asked room for.
func (x *Index) Settled() bool { return x.room.settled() }
