package layer

// Windows: regions of files that are mapped into memory, as their chains have them. What the page cache has of one is answered from
// where it lies, without a system call and without a copy, and costs the same over however many layers it is spread.

import (
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const (
	windowSize = blockmap.RegionBlocks * blockSize // 4 MiB

	// windowsAtMost bounds page tables (8 KiB a window), and what the kernel has to take apart when this process dies, before the next
	// one can go on.
	windowsAtMost = 1 << 10

	// windowsOfMemory is the part of the host's memory that is mapped at most.
	windowsOfMemory = 4

	// shortestRun is how many blocks of one layer are worth a mapping of their own; windowRuns is how many a window has at most.
	shortestRun = 8
	windowRuns  = blockmap.RegionBlocks / shortestRun

	// roomForOthers is for how many windows room is made at a time.
	roomForOthers = 16

	// windowsKept is how many looks a window that is not used outlasts.
	windowsKept = 30

	// otherMappings are left to the rest of the process.
	otherMappings = 1 << 13

	// staleAtOnce is how many windows that show too little are closed at one look.
	staleAtOnce = 16
)

// Tests don't have that long, nor that many.
var (
	// windowRunsAtMost bounds both likewise.
	windowRunsAtMost = 1 << 15

	// oneInWished: of so many reads from the page cache, one asks for a window.
	oneInWished uint32 = 16

	// windowsLooked is how often windows are looked at. What leaves the page cache in between is waited for by the loop that
	// reads it.
	windowsLooked = time.Second
)

// windows are places in one part of the address space, in each of which one region may be shown. A region has one place where it may
// be; another region's window there is left if it is in use.
//
// Readers are in an epoch. A window is taken out of their reach, then their epochs are waited for, then its place is mapped
// anew.
type windows struct {
	store  *Store
	wished chan wish

	runsAtMost int // that may be mapped

	mu     sync.Mutex // guards changes of places
	arena  unsafe.Pointer
	places []atomic.Pointer[window]
	open   int
	runs   int  // of all that are open
	scarce bool // there were to be more
}

// wish is a region that was read, of which there is no window.
type wish struct {
	chain  *chainMap
	region uint64
}

// window is a region in memory: each run of blocks of one layer is mapped from that layer's data file. It shows a block as long as its
// owner is who it was when the window was opened.
type window struct {
	wish
	mem    []byte                                    // nil: there was nothing to show
	layers []*layer                                  // of which something is mapped
	owners []LayerID                                 // of blocks when it was opened: 0 if nobody, notShown first
	who    [blockmap.RegionBlocks]uint8              // each block's, in owners
	zeros  [blockmap.RegionBlocks / 64]uint64        // blocks that nobody owns
	cached [blockmap.RegionBlocks / 64]atomic.Uint64 // those, and what the page cache had at the last look
	used   atomic.Bool                               // since then
	stale  atomic.Bool                               // something has another owner

	runs      int
	idle      int  // looks without use; guarded by windows.mu, as the next
	contested bool // another one's place, too
}

const notShown = ^LayerID(0)

// newWindows makes as many places as the host's memory allows. There are none where a page is no block, nor where each read has to be
// verified.
func newWindows(s *Store) *windows {
	w := &windows{store: s, wished: make(chan wish, 64)}
	var host unix.Sysinfo_t
	if s.opts.Verify || unix.Getpagesize() != blockSize || unix.Sysinfo(&host) != nil {
		return w
	}
	n := windowsAtMost
	for uint64(n)*windowSize > host.Totalram*uint64(host.Unit)/windowsOfMemory {
		n /= 2
	}
	w.places = make([]atomic.Pointer[window], n)
	w.runsAtMost = min(windowRunsAtMost, max(mappingsAtMost()-otherMappings, 0)/2) // with gaps in between, there are twice as many
	return w
}

// mappingsAtMost is how many a process may have, which dies where it needs more.
func mappingsAtMost() int {
	p, _ := os.ReadFile("/proc/sys/vm/max_map_count")
	n, _ := strconv.Atoi(strings.TrimSpace(string(p))) // of a host that does not tell: none
	return n
}

// place is where the window of a region may be: those of one file lie side by side.
func (w *windows) place(of wish) int {
	return int((of.chain.number*0x9e3779b97f4a7c15>>32 + of.region) & uint64(len(w.places)-1))
}

// find returns n bytes of a file from off, or nil if they are not at hand. The caller is in an epoch, and uses them no longer than that.
func (w *windows) find(chain *chainMap, off int64, n int) []byte {
	in, from := wish{chain, uint64(off) / windowSize}, int(off%windowSize)
	if len(w.places) == 0 || from+n > windowSize {
		return nil
	}
	v := w.places[w.place(in)].Load()
	if v == nil || v.wish != in || v.mem == nil {
		return nil
	}
	if !v.used.Load() {
		v.used.Store(true)
	}
	if !v.shows(from/blockSize, (from+n-1)/blockSize+1) {
		return nil
	}
	p := v.mem[from : from+n : from+n]
	if _, ok := touch(p); !ok {
		return nil
	}
	return p
}

// shows says whether blocks from b up to end are there, and whose they were.
func (v *window) shows(b, end int) bool {
	for b < end {
		owner, n, ok := v.chain.Run(v.region*blockmap.RegionBlocks+uint64(b), uint64(end-b))
		if !ok {
			return false
		}
		for to := b + int(n); b < to; b++ {
			if v.cached[b/64].Load()>>(b%64)&1 == 0 {
				return false
			}
			if v.owners[v.who[b]] != owner {
				if !v.stale.Load() {
					v.stale.Store(true)
				}
				return false
			}
		}
	}
	return true
}

// touch reads a byte of every page, so that the pages are there when the kernel copies them: a process that is killed while it waits for
// one within the answer fails that request, instead of leaving it to the next process. Where a page can't be had, ok is false.
//
//go:noinline
func touch(p []byte) (sum byte, ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if !ok {
			_ = recover()
		}
	}()
	for i := 0; i < len(p); i += blockSize {
		sum += p[i]
	}
	return sum + p[len(p)-1], true
}

// ask wishes for a window now and then, of what was read from the page cache at off.
func (w *windows) ask(chain *chainMap, off int64) {
	if rand.Uint32()%oneInWished != 0 || len(w.places) == 0 {
		return
	}
	of := wish{chain, uint64(off) / windowSize}
	if v := w.places[w.place(of)].Load(); v != nil && v.wish == of {
		return
	}
	select {
	case w.wished <- of:
	default:
	}
}
