package layer

// Images: the files in memory/, and what is done to them in the background.

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	imagesName = "memory"
	packedExt  = ".zst"

	// packAgain is after how long an image is tried again that could not be packed.
	packAgain = 10 * time.Minute
)

type imageID uint64

// imageRecord is an image in memory/. One that no snapshot names is to be removed.
type imageRecord struct {
	Bytes   int64  `json:"bytes,omitempty"` // of memory, unpacked
	Packed  bool   `json:"packed,omitempty"`
	Table   uint32 `json:"table,omitempty"`   // then: crc32c of the file behind its frames, which has their checksums; 0: not known
	Damaged string `json:"damaged,omitempty"` // what the last scrub found
}

// images packs and removes images, one at a time. It may stop anywhere: a start looks at all of them again.
type images struct {
	store *Store
	dir   string
	stop  chan struct{} // the store's
	wake  chan struct{}

	mu    sync.Mutex // guards what follows
	queue []*image   // the first is being worked on
}

// image is one that a snapshot has, or had.
type image struct {
	images  *images
	id      imageID
	bytes   int64
	removed atomic.Bool
	damaged atomic.Pointer[string] // what a scrub found, if anything

	handles map[Handle]struct{} // guarded by VM.mu

	mu     sync.RWMutex // guards what follows; shared while reading
	packed bool
	table  uint32
	source imageSource // nil until somebody reads
}

func newImages(s *Store) *images {
	return &images{store: s, dir: filepath.Join(s.dir, imagesName), stop: s.stop, wake: make(chan struct{}, 1)}
}

func (m *images) path(id imageID, packed bool) string {
	path := filepath.Join(m.dir, fileName(LayerID(id)))
	if packed {
		path += packedExt
	}
	return path
}

// MemoryBytes is how much the memory images of the store take.
func (s *Store) MemoryBytes() (sum int64) {
	entries, _ := readDir(s.images.dir) // there may be none yet
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// makeDir makes memory/, which stores without an image do not have.
func (m *images) makeDir() error {
	err := mkdir(m.dir, os.Mkdir)
	switch {
	case errors.Is(err, os.ErrExist):
		return nil
	case err != nil:
		return Errorf(hostErrno(err), "make %s: %w", m.dir, err)
	}
	return syncDirectory(m.store.dir)
}

// has makes an image known that a snapshot has.
func (m *images) has(id imageID, r imageRecord) *image {
	i := &image{images: m, id: id, bytes: r.Bytes, packed: r.Packed, table: r.Table, handles: make(map[Handle]struct{})}
	if r.Damaged != "" {
		i.damaged.Store(&r.Damaged)
	}
	return i
}

// record is what the index says of it.
func (i *image) record() imageRecord {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.recordLocked()
}

func (i *image) recordLocked() imageRecord {
	r := imageRecord{Bytes: i.bytes, Packed: i.packed, Table: i.table}
	if damaged := i.damaged.Load(); damaged != nil {
		r.Damaged = *damaged
	}
	return r
}

// add queues images to be packed, or removed.
func (m *images) add(i ...*image) {
	m.mu.Lock()
	m.queue = append(m.queue, i...)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// first is the one to work on, nil if there is none.
func (m *images) first() *image {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return nil
	}
	return m.queue[0]
}

func (m *images) dropFirst() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = m.queue[1:]
}

// run works until the store closes.
func (m *images) run() {
	var again []*image
	for {
		for i := m.first(); i != nil && !m.stopped(); i = m.first() {
			if err := i.settle(); err != nil && !m.stopped() {
				again = append(again, i)
				m.store.opts.Event("", "memory-image-failed", "image", fileName(LayerID(i.id)), "error", err.Error())
			}
			m.dropFirst()
		}
		var retry <-chan time.Time
		if len(again) > 0 {
			retry = time.After(packAgain)
		}
		select {
		case <-m.stop:
			return
		case <-m.wake:
		case <-retry:
			m.add(again...)
			again = nil
		}
	}
}

func (m *images) stopped() bool {
	select {
	case <-m.stop:
		return true
	default:
		return false
	}
}

// settle does to an image what is still to be done.
func (i *image) settle() error {
	switch {
	case i.removed.Load():
		return i.images.erase(i.id)
	case i.isPacked():
		return removeIfThere(i.images.path(i.id, false)) // a crash may have left it
	}
	return i.pack()
}

// erase removes an image that no snapshot has: its files, durably, then its record.
func (m *images) erase(id imageID) error {
	err := errors.Join(removeIfThere(m.path(id, false)), removeIfThere(m.path(id, true)))
	if err == nil {
		err = syncDirectory(m.dir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return m.store.updateFreeing(func(tx *blockmap.Tx) error { tx.Delete(catalogKey(tableImage, id)); return nil })
}

func removeIfThere(path string) error {
	err := removeFile(path)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return Errorf(syscall.EIO, "remove a memory image: %w", err)
}

// removeImages lets go of the images of snapshots that are gone.
func (m *images) removeImages(gone []*Snapshot) {
	for _, n := range gone {
		if n.image != nil {
			n.image.removed.Store(true)
			n.image.closeSource()
			m.add(n.image)
		}
	}
}

// loadImages finds whose the images are; those that are nobody's go.
func (s *Store) loadImages(c *catalog) error {
	all := make(map[imageID]*image)
	for id, r := range c.images {
		all[id] = s.images.has(id, r)
		all[id].removed.Store(true)
	}
	for id, r := range c.snapshots {
		if r.Memory == 0 {
			continue
		}
		n, err := s.SnapshotByID(id)
		if err != nil {
			return err
		}
		if n.image = all[r.Memory]; n.image == nil {
			return Errorf(syscall.EIO, "snapshot %q of VM %q has memory image %d, which is missing", r.Name, n.vm.name, r.Memory)
		}
		n.image.removed.Store(false)
	}
	for _, i := range all {
		s.images.add(i)
	}
	return nil
}
