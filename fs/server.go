package fs

// The server: all that requests share. The requests themselves are in files by theme.

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

// server answers the requests of one mount. What it does not define is answered ENOSYS by the type it embeds, which
// makes the kernel help itself: extended attributes, ACCESS, COPY_FILE_RANGE, locks.
type server struct {
	fuse.RawFileSystem
	store    *layer.Store
	options  Options
	log      *EventLog
	failures *failures

	policies sync.Mutex // one change of a policy at a time
	controls handles[controlFile]
	listings handles[listing]
	abouts   handles[[]byte]

	commands atomic.Int64 // that are under way

	resends bool // the kernel can send requests to another process

	rootChanged atomic.Int64 // when the root's entries last changed, in Unix nanoseconds
}

func newServer(store *layer.Store, o Options) *server {
	s := &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		store:         store,
		options:       o,
		log:           o.Log,
		failures:      newFailures(o.Log),
		resends:       true,
	}
	s.touchRoot()
	return s
}

func (s *server) String() string { return fsType }

func (s *server) touchRoot() { s.rootChanged.Store(time.Now().UnixNano()) }

// vmOf returns the VM that a VM's directory, .snapshots or control file belongs to.
func (s *server) vmOf(n node) (*layer.VM, error) {
	switch n.kind() {
	case kindVM, kindSnapDir:
		return s.store.VMByID(n.vmID())
	case kindControl:
		vm, _ := n.control()
		return s.store.VMByID(vm)
	}
	return nil, errStale
}

// vmName is the name to tell events of n under, empty if it is of no VM.
func (s *server) vmName(n node) string {
	switch n.kind() {
	case kindVM, kindSnapDir, kindControl:
		if vm, err := s.vmOf(n); err == nil {
			return vm.Name()
		}
	case kindFile:
		if f, err := s.store.FileByID(n.fileID()); err == nil {
			return f.VM().Name()
		}
	case kindSnapshot, kindMemory, kindAbout:
		if snapshot, err := s.store.SnapshotByID(n.snapshotID()); err == nil {
			return snapshot.VM().Name()
		}
	case kindView:
		if view, err := s.store.ViewByID(n.layerID()); err == nil {
			return view.Snapshot().VM().Name()
		}
	}
	return ""
}

// diskOf returns which VM a file is of, if it is one of a VM or a snapshot.
func (s *server) diskOf(n node) (vm layer.VMID, ok bool) {
	switch n.kind() {
	case kindFile:
		if f, err := s.store.FileByID(n.fileID()); err == nil {
			return f.VM().ID(), true
		}
	case kindView:
		if view, err := s.store.ViewByID(n.layerID()); err == nil {
			return view.Snapshot().VM().ID(), true
		}
	}
	return 0, false
}

// whose is the VM, and the name of its file, that n is of; empty where it is of none.
func (s *server) whose(n node) (vm, file string) {
	switch n.kind() {
	case kindFile:
		if f, err := s.store.FileByID(n.fileID()); err == nil {
			file = f.Name()
		}
	case kindControl:
		_, which := n.control()
		file = layer.SnapDir + "/" + which.name()
	}
	return s.vmName(n), file
}

// result maps the outcome of an operation at n, and logs its failure unless that was told already.
func (s *server) result(n node, op string, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if errors.As(err, new(told)) {
		return statusOf(err)
	}
	return s.failures.status(s.vmName(n), op, err)
}

// Refusals that several requests share.
var (
	errStale     = layer.Errorf(syscall.ESTALE, "what was opened here is gone")
	errReadOnly  = layer.Errorf(syscall.EROFS, "a snapshot never changes")
	errNotHere   = layer.Errorf(syscall.EPERM, "the mount holds only directories of VMs, and these only plain files")
	errControl   = layer.Errorf(syscall.EPERM, "control files stay as they are")
	errDirectory = layer.Errorf(syscall.EISDIR, "is a directory")
	errNotDir    = layer.Errorf(syscall.ENOTDIR, "is not a directory")
	errNoEntry   = layer.Errorf(syscall.ENOENT, "no such file or directory")
)

// handles are the open control files or directory listings, by the unique id of the request that opened them.
type handles[T any] struct {
	mu   sync.Mutex
	open map[uint64]*T
}

// resent marks a request that the kernel sends again to a new process.
const resent = 1 << 63

// handle is what an OPEN's answer calls the open file: the same also when the OPEN was sent again.
func handle(h *fuse.InHeader) uint64 { return h.Unique &^ resent }

func (h *handles[T]) put(fh uint64, t *T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		h.open = make(map[uint64]*T)
	}
	h.open[fh] = t
}

// get returns nil for a handle that an earlier process opened.
func (h *handles[T]) get(fh uint64) *T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open[fh]
}

func (h *handles[T]) drop(fh uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, fh)
}
