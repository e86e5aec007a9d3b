package layer

// Windows are tended here: opened where they are wished for, looked at, and closed.

import (
	"fmt"
	"math"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// tend opens windows that are wished for, and closes those that are not used, until stop is closed.
func (w *windows) tend(stop <-chan struct{}) {
	tick := time.NewTicker(windowsLooked)
	defer tick.Stop()
	for {
		looks := tick.C
		if !w.any() {
			looks = nil
		}
		select {
		case <-stop:
			return
		case of := <-w.wished:
			w.grant(of)
		case <-looks:
			w.look()
		}
	}
}

func (w *windows) any() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open > 0
}

// grant opens a window, if its place is free, or that of one that idles. If not, the one that is there has to be used to stay.
func (w *windows) grant(of wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	place := w.place(of)
	if there := w.places[place].Load(); there != nil {
		if there.wish == of || !there.idles() {
			there.contested = there.wish != of
			return
		}
		w.closeLocked(func(v *window) bool { return v == there })
	}
	if w.runs+windowRuns > w.runsAtMost {
		w.makeRoom()
	}
	if w.arena == nil {
		arena, err := mapZeros(nil, uintptr(len(w.places))*windowSize, 0)
		if err != nil {
			return
		}
		w.arena = arena
	}
	v := &window{wish: of, owners: []LayerID{notShown}}
	switch {
	case w.mapRuns(v, w.at(place)):
		v.mem = unsafe.Slice((*byte)(w.at(place)), windowSize)
		v.look()
	case v.stale.Load():
		return // it may have something to show soon
	}
	v.used.Store(true)
	w.places[place].Store(v)
	w.open++
	w.runs += v.runs
}

// makeRoom closes windows that idle, those first that have done so the longest, for some others to come.
func (w *windows) makeRoom() {
	var idle []*window
	for i := range w.places {
		if v := w.places[i].Load(); v != nil && v.idles() {
			idle = append(idle, v)
		}
	}
	slices.SortFunc(idle, func(a, b *window) int { return b.idle - a.idle })
	n := 0
	for left := w.runs; n < len(idle) && left+windowRuns*roomForOthers > w.runsAtMost; n++ {
		left -= idle[n].runs
	}
	w.closeLocked(func(v *window) bool { return slices.Contains(idle[:n], v) })
}

// idles says whether a window was not used for as long as from one look to the next.
func (v *window) idles() bool { return !v.used.Load() && v.idle > 1 }

func (w *windows) at(place int) unsafe.Pointer {
	return unsafe.Add(w.arena, place*windowSize)
}

// mapRuns maps what each layer has of the region, and says whether there is anything. A data file that is to be closed has its descriptor
// taken away first, then its windows are closed, which waits for this.
func (w *windows) mapRuns(v *window, at unsafe.Pointer) bool {
	slot := w.store.epochs.enter()
	defer w.store.epochs.leave(slot)
	for b := 0; b < blockmap.RegionBlocks; {
		first := v.region*blockmap.RegionBlocks + uint64(b)
		owner, n, ok := v.chain.Run(first, blockmap.RegionBlocks)
		if !ok { // the map has gone from memory since it was wished for
			v.stale.Store(true)
			return v.runs > 0
		}
		if w.runs+v.runs == w.runsAtMost {
			w.scarce = true
			v.stale.Store(true)
			return v.runs > 0
		}
		if owner != 0 && (n < shortestRun || !w.mapRun(v, owner, first, int(n), unsafe.Add(at, b*blockSize))) {
			owner = notShown
		}
		who := v.numberOf(owner)
		for range n {
			v.who[b] = who
			if owner == 0 {
				v.zeros[b/64] |= 1 << (b % 64)
			}
			b++
		}
	}
	return v.runs > 0
}

// mapRun maps n blocks of a layer from first. Not what ends behind the data file's end, which is damage: within its last page a mapping
// would show zeros.
func (w *windows) mapRun(v *window, owner LayerID, first uint64, n int, at unsafe.Pointer) bool {
	lay := w.store.tree.layer(owner)
	if lay == nil || lay.lost != nil {
		return false
	}
	fd, err := w.store.data.open(lay, false)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size < (int64(first)+int64(n))*blockSize {
		return false
	}
	if _, err := unix.MmapPtr(fd, int64(first)*blockSize, at, uintptr(n)*blockSize, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return false
	}
	v.runs++
	if !slices.Contains(v.layers, lay) {
		v.layers = append(v.layers, lay)
	}
	return true
}

// numberOf is the owner's index, that of notShown where there are too many.
func (v *window) numberOf(owner LayerID) uint8 {
	i := slices.Index(v.owners, owner)
	switch {
	case i >= 0:
		return uint8(i)
	case len(v.owners) > math.MaxUint8:
		return 0
	}
	v.owners = append(v.owners, owner)
	return uint8(len(v.owners) - 1)
}

// mapZeros maps memory that reads as zeros and takes none.
func mapZeros(at unsafe.Pointer, size uintptr, flags int) (unsafe.Pointer, error) {
	return unix.MmapPtr(-1, 0, at, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|flags)
}

// look finds out anew what is cached of the windows that are used, and closes others.
func (w *windows) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	stale := 0
	w.closeLocked(func(v *window) bool {
		if v.used.Swap(false) {
			v.idle, v.contested = 0, false
			for _, lay := range v.layers {
				lay.data.used.Store(true)
			}
			v.look()
		}
		v.idle++
		if v.stale.Load() && stale < staleAtOnce {
			stale++
			return true
		}
		return v.idle > windowsKept || (v.contested || w.scarce) && v.idle > 1
	})
	w.scarce = false
}

// look asks the kernel what the page cache has.
func (v *window) look() {
	if v.mem == nil {
		return
	}
	var pages [blockmap.RegionBlocks]byte
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&v.mem[0])), windowSize, uintptr(unsafe.Pointer(&pages[0])))
	for i := range v.cached {
		word := v.zeros[i]
		for b, page := range pages[i*64 : i*64+64] {
			if errno == 0 {
				word |= uint64(page&1) << b
			}
		}
		v.cached[i].Store(word)
	}
}

// forget closes the windows that show something of a layer whose data file is about to be closed. It waits for epochs.
func (w *windows) forget(lay *layer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closeLocked(func(v *window) bool { return slices.Contains(v.layers, lay) })
}

// closeLocked closes windows. Nobody in an epoch waits for windows.mu.
func (w *windows) closeLocked(those func(*window) bool) {
	var closed []int
	for place := range w.places {
		if v := w.places[place].Load(); v != nil && those(v) {
			w.places[place].Store(nil)
			w.open--
			w.runs -= v.runs
			closed = append(closed, place)
		}
	}
	if len(closed) == 0 {
		return
	}
	w.store.epochs.wait()
	for _, place := range closed {
		if _, err := mapZeros(w.at(place), windowSize, unix.MAP_FIXED); err != nil {
			panic(fmt.Sprintf("unmap a window: %v", err)) // the files' space would never be free
		}
	}
}

// close closes all windows; nobody reads any more.
func (w *windows) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.arena != nil {
		_ = unix.MunmapPtr(w.arena, uintptr(len(w.places))*windowSize)
		w.arena, w.places = nil, nil
	}
}
