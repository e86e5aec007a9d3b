package layer

// The store: opening, closing, and finding what is in it.

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// flushEvery is how long what a guest wrote and did not flush stays out of the index; it bounds what is kept in
// memory, and frees what guests discard without flushing.
const flushEvery = 5 * time.Second

// Store is a directory with VMs in it, open.
type Store struct {
	dir    string
	id     string // of the catalog
	opts   Options
	lock   *os.File
	format atomic.Int64 // the version of FORMAT
	index  *blockmap.Index
	cache  *blockmap.Cache
	data   *dataFiles
	space  *space
	epochs epochs
	tree   *tree

	session *Session
	made    bool // Open made it, and madeDir: its directory, too
	madeDir bool
	resumes bool          // a worker before this one served the session
	ghosts  map[VMID]*VM  // VMs that are gone, but for files that are open: only while the store is opened
	next    atomic.Uint64 // the next id to give out

	reclaim  *reclaimer
	images   *images
	journal  *journal
	requests requests
	raising  sync.Mutex // the format's version
	work     background
	stop     chan struct{}
	closing  sync.Once
	closed   error

	scrubbing sync.Mutex               // one at a time
	scrubbed  atomic.Pointer[scrubbed] // the one under way
	unsaved   atomic.Bool              // a backup of the index is due, and there is no room for it

	chains sync.RWMutex  // shared while a chain is made and put to use, exclusive while all in use are made anew
	maps   atomic.Uint64 // that there have been

	heldBytes paced[map[*VM]int64]
	measuring sync.Mutex // held by who finds out what snapshots use

	mu        sync.RWMutex // guards the maps by name, and VM.name
	vmsByName map[string]*VM

	vms       table[VMID, VM]
	files     table[FileID, File] // the unlinked and open ones too
	snapshots table[SnapshotID, Snapshot]
	views     table[LayerID, View] // the open ones
}

// Open opens the store in dir, and makes one where there is none or an empty directory. It refuses, with the reason,
// a store that is in use, of an unknown version, or damaged.
func Open(dir string, o Options) (_ *Store, err error) {
	o.EnsureDefaults()
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, Errorf(syscall.EINVAL, "store %s: %w", dir, err)
	}
	s := &Store{dir: dir, opts: o, session: o.Session, tree: newTree(), journal: newJournal(), vmsByName: make(map[string]*VM), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if err := s.openParts(); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if s.resumes {
		s.restockNow()
	}
	s.session.serve()
	s.reclaim.start()
	s.space.blame = s.blame
	s.work.start(s.flushNowAndThen)
	s.work.start(s.keepBallast)
	s.work.start(s.keepJournal)
	s.work.start(s.keepMark)
	s.work.start(s.keepSums)
	s.work.start(s.keepBackups)
	s.work.start(s.sampleGrowth)
	s.work.start(s.images.run)
	s.work.start(func() { s.data.windows.tend(s.stop) })
	return s, nil
}

func (s *Store) openParts() (err error) {
	if s.session == nil {
		if s.session, err = NewSession(); err != nil {
			return Errorf(syscall.ENOMEM, "open store %s: %w", s.dir, err)
		}
	}
	s.resumes = s.session.Served()
	if s.resumes { // its disk may be away, and come back: nothing is to be made in its place
		if _, err := os.Stat(filepath.Join(s.dir, formatName)); err != nil {
			return Errorf(syscall.EIO, "the store that this mount shows is gone: %w", err)
		}
	}
	_, err = os.Lstat(s.dir)
	s.madeDir = errors.Is(err, os.ErrNotExist)
	empty, err := makeStore(s.dir)
	if err != nil {
		return err
	}
	// The lock comes before anything is touched, Badger's leftovers included.
	if s.lock, err = lockStore(s.dir); err != nil {
		return err
	}
	if empty {
		if err := os.Chmod(s.dir, storeMode); err != nil { // it may have been there
			return Errorf(syscall.EIO, "make store %s nobody else's to look into: %w", s.dir, err)
		}
		if err := writeFormat(s.dir, format{Version: newestFormat}); err != nil {
			return err
		}
		s.made = true
	}
	version, err := readFormat(s.dir)
	if err != nil {
		return err
	}
	s.format.Store(int64(version))
	if !s.resumes { // guests that wait for a worker need none of it
		if err := refuseAway(s.dir, backupName, quarantineName); err != nil {
			return err
		}
	}
	if err := s.putAside(); err != nil {
		return err
	}
	if err := makeParts(s.dir); err != nil {
		return err
	}
	if s.space, err = newSpace(s.dir, s.opts.Reserve, s.opts.Event); err != nil {
		return err
	}
	if s.data, err = openDataFiles(filepath.Join(s.dir, layersName), s.opts.MaxOpenFiles, &s.epochs); err != nil {
		return err
	}
	s.data.windows = newWindows(s)
	if s.data.sums, err = openSums(s.dir); err != nil {
		return err
	}
	o := blockmap.Options{
		Failed: func(err error) {
			s.opts.Event("", "index-failed", "error", err.Error())
			s.opts.Failed(err)
		},
		Room:     s.space.room,
		Counter:  filepath.Join(s.dir, commitsName),
		Identity: formatIdentity(s.dir),
		Trusted:  s.resumes,
		Aside:    s.takeStrays(),
		Commit:   commitFault,
	}
	if fault != nil || noted != nil {
		o.Fault = faultyAt
	}
	s.index, err = blockmap.Open(filepath.Join(s.dir, indexName), o)
	if errors.Is(err, blockmap.ErrDamaged) {
		return Errorf(syscall.EIO, "open the index of store %s: %w%s", s.dir, err, remedy(s.dir, err))
	}
	if err != nil {
		return indexError(err, "open the index of store "+s.dir)
	}
	if err := s.nameIndex(); err != nil {
		return err
	}
	s.cache = blockmap.NewCache(s.index, s.opts.MapMemory)
	s.reclaim = newReclaimer(s)
	s.images = newImages(s)
	return nil
}

// putAside takes out of the way what the store can do without, and what is not what it has to be.
func (s *Store) putAside() error {
	q := &quarantine{store: s.dir}
	return q.takeWrong(func(name, what string) {
		s.opts.Event("", "put-aside", "file", name, "what", what, "aside", q.name)
	})
}

// takeStrays returns what puts what lies beside the index and is no part of it into quarantine.
func (s *Store) takeStrays() func(blockmap.Stray) error {
	q := &quarantine{store: s.dir}
	return func(f blockmap.Stray) error {
		if err := q.takeStray(f); err != nil {
			return err
		}
		s.opts.Event("", "index-stray", "file", filepath.Join(indexName, f.Name), "what", f.Text, "aside", q.name)
		return nil
	}
}

// Close flushes everything and closes the store. It may be called twice.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.stop)
		s.reclaim.close()
		s.work.end()
		s.closed = errors.Join(s.flushAll(), s.release())
	})
	return s.closed
}

// background is work that goes on beside requests, until the store is closed.
type background struct {
	mu      sync.Mutex
	ended   bool
	running sync.WaitGroup
}

// start runs fn, or says that the store is being closed and fn is not run.
func (b *background) start(fn func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.running.Go(fn)
	}
	return !b.ended
}

// end returns once all that was started has returned.
func (b *background) end() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.running.Wait()
}

func (s *Store) release() error {
	var errs []error
	if s.data != nil {
		s.data.closeAll()
	}
	s.journal.close()
	leftOpen := false
	if s.index != nil {
		err := s.index.Close()
		errs, leftOpen = append(errs, err), errors.Is(err, blockmap.ErrLeftOpen)
	}
	if s.space != nil {
		errs = append(errs, s.space.ballast.close())
	}
	if s.lock != nil && !leftOpen { // otherwise it ends with this process
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// flushAll flushes every file that the catalog knows.
func (s *Store) flushAll() error {
	var errs []error
	s.files.Range(func(f *File) bool {
		errs = append(errs, f.Commit(false))
		return true
	})
	return errors.Join(errs...)
}

// flushNowAndThen commits what guests wrote and never flush, and drops what was kept for requests that are answered.
func (s *Store) flushNowAndThen() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		case <-s.data.crowded:
		}
		s.files.Range(func(f *File) bool {
			if f.pending() {
				if err := f.Commit(false); err != nil {
					s.opts.Event(f.vm.Name(), "flush-failed", "file", f.Name(), "error", err.Error())
				}
			}
			return true
		})
		go s.data.trim() // waits for requests under way
		if err := s.forgetRequests(); err != nil {
			s.opts.Event("", "forget-failed", "error", err.Error())
		}
	}
}

// Session is what the next worker of the mount would go on from.
func (s *Store) Session() *Session { return s.session }

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// newID gives out an id of any kind.
func (s *Store) newID() uint64 { return s.next.Add(1) - 1 }

// putNext records the ids given out so far; every transaction that names new ones calls it.
func (s *Store) putNext(tx *blockmap.Tx) error {
	return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.Next = s.next.Load() })
}

// update runs one durable transaction. ENOSPC, with nothing done, where the index has no room.
func (s *Store) update(fn func(tx *blockmap.Tx) error) error { return commitError(s.index.Update(fn)) }

// updateFreeing is update for what gives room back: it goes on for a while where others get ENOSPC.
func (s *Store) updateFreeing(fn func(tx *blockmap.Tx) error) error {
	return commitError(s.index.UpdateFreeing(fn))
}

func commitError(err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return indexError(err, "commit to the index")
}

func indexError(err error, what string) error {
	if errors.Is(err, blockmap.ErrFull) {
		return Errorf(syscall.ENOSPC, "%s: the store's file system is full, make room outside of the store or delete snapshots: %w", what, err)
	}
	return Errorf(syscall.EIO, "%s: %w", what, err)
}

// VMs are all of them, by name.
func (s *Store) VMs() []*VM {
	s.mu.RLock()
	defer s.mu.RUnlock()
	vms := make([]*VM, 0, len(s.vmsByName))
	for _, v := range s.vmsByName {
		vms = append(vms, v)
	}
	slices.SortFunc(vms, func(a, b *VM) int { return cmp.Compare(a.name, b.name) })
	return vms
}

// VM finds a VM by name; ENOENT.
func (s *Store) VM(name string) (*VM, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if v := s.vmsByName[name]; v != nil {
		return v, nil
	}
	return nil, Errorf(syscall.ENOENT, "there is no VM %q", name)
}

// VMByID finds a VM; ESTALE.
func (s *Store) VMByID(id VMID) (*VM, error) { return byID(&s.vms, id, "VM") }

// FileByID finds a file of any VM, also one that is unlinked and open; ESTALE.
func (s *Store) FileByID(id FileID) (*File, error) { return byID(&s.files, id, "file") }

// SnapshotByID finds a snapshot of any VM; ESTALE.
func (s *Store) SnapshotByID(id SnapshotID) (*Snapshot, error) {
	return byID(&s.snapshots, id, "snapshot")
}

func byID[K ~uint64, V any](t *table[K, V], id K, what string) (*V, error) {
	if v := t.Load(id); v != nil {
		return v, nil
	}
	return nil, Errorf(syscall.ESTALE, "%s %v is gone", what, id)
}

func newStoreRecord() storeRecord {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return storeRecord{ID: hex.EncodeToString(id[:]), Next: 1}
}
