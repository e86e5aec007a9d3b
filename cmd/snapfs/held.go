package main

// Guests that are held still: a daemon that dies meanwhile must not leave them so for ever.

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

// heldGuests writes down who is held, a file for each VM in STORE/frozen. A file is there before its guest is frozen,
// and goes after it is thawed: a crash at any moment leaves a file too many at most, and thawing a guest that is not
// frozen does nothing.
type heldGuests struct {
	ctx        context.Context // ends with the daemon
	dir        string
	store      *layer.Store
	event      func(vm, event string, attrs ...any)
	mountpoint string
	work       sync.WaitGroup

	mu        sync.Mutex
	releasing map[layer.VMID]*releasing
}

// releasing is what is done to let go of a guest, and to run the scripts that should have followed.
type releasing struct {
	over  chan struct{} // closed when it is done, or will not be by this daemon
	guest bool          // it is not only about scripts
}

func (h *heldGuests) path(id layer.VMID) string {
	return filepath.Join(h.dir, strconv.FormatUint(uint64(id), 10))
}

// mark writes down, durably, how a VM's guest is about to be held; nil says that it is not any more.
func (h *heldGuests) mark(id layer.VMID, held *quiesce.Held) error {
	if held == nil {
		err := os.Remove(h.path(id)) // should it be back after a crash, it does no harm
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := os.Mkdir(h.dir, 0o700); err == nil {
		if err := syncDir(filepath.Dir(h.dir)); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	text, err := h.store.EncodeHeld(id, held)
	if err != nil {
		return err
	}
	return writeDurably(h.path(id), text)
}

// releaseAll lets go, in the background, of all guests that an earlier daemon left held. A guest may need its disks for
// that, so nobody may wait for it before the mount answers.
func (h *heldGuests) releaseAll() {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.event("", "thaw-failed", "error", err)
	}
	for _, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			continue // one that was not finished, so nobody was frozen yet
		}
		var held quiesce.Held
		var text []byte
		if err = errors.New("it is no file"); e.Type().IsRegular() {
			text, err = os.ReadFile(filepath.Join(h.dir, e.Name()))
		}
		if err == nil {
			err = h.store.DecodeHeld(layer.VMID(id), text, &held)
		}
		if err != nil {
			h.event(h.nameOf(layer.VMID(id)), "thaw-failed", "file", h.path(layer.VMID(id)), "error", err,
				"what", "its guest may be frozen or stopped: let it go on by hand, then remove the file")
			continue
		}
		h.release(layer.VMID(id), held)
	}
}

// release lets go of a guest in the background, and then runs the scripts that should have followed. The daemon's end leaves its file for the next start.
func (h *heldGuests) release(id layer.VMID, held quiesce.Held) {
	h.mu.Lock()
	if h.releasing == nil {
		h.releasing = make(map[layer.VMID]*releasing)
	}
	r := &releasing{over: make(chan struct{}), guest: held.Guest()}
	h.releasing[id] = r
	h.mu.Unlock()
	h.work.Go(func() {
		err := quiesce.Release(h.ctx, held)
		if err == nil {
			err = h.runPost(id, held)
		}
		if err == nil {
			err = h.mark(id, nil)
		}
		switch {
		case err != nil:
			h.event(h.nameOf(id), "thaw-failed", "error", err)
		case r.guest:
			h.event(h.nameOf(id), "thawed")
		}
		h.mu.Lock()
		if h.releasing[id] == r {
			delete(h.releasing, id)
		}
		h.mu.Unlock()
		close(r.over)
	})
}

// runPost runs the scripts that a daemon which died owed. What comes of them changes nothing, but if this daemon ends
// meanwhile, the next one runs them.
func (h *heldGuests) runPost(id layer.VMID, held quiesce.Held) error {
	if len(held.Post) == 0 {
		return nil
	}
	err := checkScripts(held.Post, h.mountpoint)
	if err == nil {
		err = quiesce.RunPost(h.ctx, held)
	}
	if h.ctx.Err() != nil {
		return h.ctx.Err()
	}
	attrs := []any{"snapshot", held.Snapshot}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	h.event(h.nameOf(id), "post-scripts", attrs...)
	return nil
}

// isReleasing says whether a VM's guest is still to be let go of: a late thaw would end the next freeze.
func (h *heldGuests) isReleasing(id layer.VMID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.releasing[id]
	return r != nil && r.guest
}

// await waits until nobody lets go of a VM's guest any more, nor runs scripts for that, for so long at most, and says
// whether that is so.
func (h *heldGuests) await(id layer.VMID, patience time.Duration) bool {
	h.mu.Lock()
	r := h.releasing[id]
	h.mu.Unlock()
	if r == nil {
		return true
	}
	select {
	case <-r.over:
		return true
	case <-time.After(patience):
	case <-h.ctx.Done():
	}
	return false
}

func (h *heldGuests) nameOf(id layer.VMID) string {
	v, err := h.store.VMByID(id)
	if err != nil {
		return "" // it is gone, and its guest may still be there
	}
	return v.Name()
}
