package layer

// The values that go in and out of the package.

import (
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// Ids of the catalog. None is ever used again, and no two things of a store share one.
type (
	VMID       uint64
	FileID     uint64
	SnapshotID uint64
	LayerID    = blockmap.LayerID
)

// Handle names one open of a file; who opens it chooses it.
type Handle uint64

// Options of a store; the zero value is useful.
type Options struct {
	Reserve      Reserve
	MapMemory    int64 // bytes for maps in memory; 0: 256 MiB
	MaxOpenFiles int   // data files open at once; 0: 4,096
	Verify       bool  // compare what is read with its checksums, where there are any

	// Session is the mount's, with what a worker before this one left in it; it stays the caller's. nil: one of the
	// store's own.
	Session *Session

	// Event is told what happens, with alternating keys and values; vm is empty for what concerns the store.
	// It may be nil, is called from any goroutine, and must not call back.
	Event func(vm, event string, attrs ...any)

	// Failed is called when a commit to the index has failed, before anybody who waits for it hears of that. Whether its
	// content is durable nobody knows then, and nothing more can be committed: who serves guests should end there, and
	// have another process look at what is there. It may be nil, and must not call back.
	Failed func(error)
}

// EnsureDefaults fills in what was left out.
func (o *Options) EnsureDefaults() {
	if o.MapMemory <= 0 {
		o.MapMemory = 256 << 20
	}
	if o.MaxOpenFiles <= 0 {
		o.MaxOpenFiles = 4096
	}
	if o.Event == nil {
		o.Event = func(string, string, ...any) {}
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
}

// Attr is what stat(2) shows. Size in bytes, Blocks in units of 512 bytes, Mode the permission bits.
type Attr struct {
	Size                int64
	Blocks              uint64
	Mode                uint32
	UID, GID            uint32
	Atime, Mtime, Ctime time.Time
	Nlink               uint32
}

// SetAttr is what to change; nil leaves a thing as it is.
type SetAttr struct {
	Mode, UID, GID *uint32
	Size           *int64
	Atime, Mtime   *time.Time
}

// FileEntry is a VM's file under its name.
type FileEntry struct {
	Name string
	File *File
}

// RenameFlags are those of renameat2(2).
type RenameFlags uint32

// What a rename does with a target that exists, beside replacing it.
const (
	RenameNoReplace RenameFlags = 1
	RenameExchange  RenameFlags = 2
)

// Consistency labels: what a snapshot's disks are worth.
const (
	ConsistencyOff   = "off"   // no file was open for writing
	ConsistencyCrash = "crash" // as after pulling the plug

	ConsistencyFilesystem  = "filesystem"  // frozen by the guest's agent
	ConsistencyApplication = "application" // and its applications too
)

// States of a snapshot.
const (
	StateSealing = "sealing"
	StateReady   = "ready"
)

// FileInfo is a file as snapshots and status list it. Allocated: bytes that read as data, as du(1) counts.
type FileInfo struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"`
	Allocated int64  `json:"allocated"`
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	Name        string     `json:"name"`
	Parent      *string    `json:"parent"`
	Created     time.Time  `json:"created"`
	State       string     `json:"state"`
	Consistency string     `json:"consistency"`
	Memory      *int64     `json:"memory"`
	Running     *bool      `json:"running"`
	Description string     `json:"description"`
	Warning     *string    `json:"warning"`
	Excluded    []string   `json:"excluded"`
	Files       []FileInfo `json:"files"`

	// Bytes that deleting it would give back, and those of the rest that it shows, where that was found out.
	Unique *int64 `json:"unique,omitempty"`
	Shared *int64 `json:"shared,omitempty"`

	Head bool  `json:"-"` // the current state grew from it
	Undo bool  `json:"-"` // a revert or commit kept it
	Held int64 `json:"-"` // bytes in its own layers
}

// CreateOptions of a snapshot. Files nil: all of the VM's that its policy does not exclude. Auto: the policy's schedule
// made it, and may delete it. Held: the guest is to be held still for the instant. Image is to become its memory,
// complete by when Seal asks for the verdict. Running and Machine are what the machine's monitor told before, the latter a
// JSON document of at most MaxMachine bytes.
type CreateOptions struct {
	Name, Description string
	Files             []string
	Auto              bool
	Held              bool
	Image             *Image
	Running           *bool
	Machine           []byte
	By                Request
}

// MaxMachine is how long the description of a machine may be, in bytes.
const MaxMachine = 512 << 10

// RevertOptions: Discard keeps nothing of what is left behind, Force reverts under open files.
// Files nil: all of the snapshot's.
type RevertOptions struct {
	Name           string
	Discard, Force bool
	Files          []string
	By             Request
}

// RevertResult is what a revert came to. Kept names the snapshot of what was left behind, if any; Reset says that
// a file was open for writing, so that the guest must be reset now.
type RevertResult struct {
	Snapshot SnapshotInfo
	Kept     string
	Reset    bool
}

// PreviewOptions: Force previews under open files. Files nil: all of the snapshot's.
type PreviewOptions struct {
	Name  string
	Force bool
	Files []string
	By    Request
}

// VMStatus is how a VM stands. Virtual and Allocated in bytes; Allocated is what all its layers hold, those of snapshots
// included. FullAt is when it alone fills the store if it goes on like that, nil if that is far ahead.
type VMStatus struct {
	VM            string     `json:"vm"`
	Head          *string    `json:"head"`
	Preview       *string    `json:"preview"`
	Files         []FileInfo `json:"files"`
	Virtual       int64      `json:"virtual"`
	Allocated     int64      `json:"allocated"`
	GrowthPerHour int64      `json:"growth_per_hour"` // over the last day
	FullAt        *time.Time `json:"full_at"`
	Compliant     bool       `json:"compliant"`
	Reasons       []string   `json:"reasons"`
}

// Stats is how a store stands. Sizes in bytes; Total and Avail are those of its file system, Avail above the reserve.
type Stats struct {
	Layers, RetiredLayers    int
	LayerBytes, ReclaimBytes int64
	UnsummedBytes            int64 // of LayerBytes, what has no checksums: heads, and what was just sealed
	Free, Reserve            int64
	Total, Avail             int64
	GrowthPerHour            int64      // of all VMs, over the last day
	FullAt                   *time.Time // when the store is full if that goes on; nil: far ahead
	Fastest                  string     // the VM that grows the fastest, over the last hour; empty: none does
	OpenFiles                int
}
