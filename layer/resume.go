package layer

// Taking over: a worker goes on where the one before it died, by what that left in the session. The index has what was
// flushed, the host's page cache what was written, and the session log which layer it is in.

import (
	"fmt"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// resume brings back what was open, and does over what the log has.
func (s *Store) resume(c *catalog) error {
	s.resumeHandles()
	var swapped []*Pending
	for _, id := range s.session.logged() {
		p, err := s.replay(id, c)
		if err != nil {
			return fmt.Errorf("the session log of VM %d: %w", id, err)
		}
		if p != nil {
			swapped = append(swapped, p)
		}
	}
	if err := s.resumeHeads(); err != nil {
		return err
	}
	for _, p := range swapped {
		info, err := p.Seal(nil)
		if err != nil {
			s.opts.Event(p.vm.Name(), "create-failed", "snapshot", p.snap.Name(), "error", err.Error())
			continue
		}
		s.opts.Event(p.vm.Name(), "completed", "snapshot", info.Name, "what", "a snapshot that a crash cut short")
	}
	return nil
}

// openIDs are the files that somebody has open, by what the session says.
func (s *Store) openIDs() map[FileID]bool {
	open := make(map[FileID]bool)
	if s.resumes {
		s.session.eachOpen(func(_ Handle, id, flags uint64) {
			if flags&(openView|openMemory|openText) == 0 {
				open[FileID(id)] = true
			}
		})
	}
	return open
}

func (s *Store) resumeHandles() {
	s.session.eachOpen(func(h Handle, id, flags uint64) {
		if !s.resumeHandle(h, id, flags) {
			s.session.closed(h)
		}
	})
}

// resumeHandle says whether what a handle is of is still there.
func (s *Store) resumeHandle(h Handle, id, flags uint64) bool {
	switch {
	case flags&openText != 0:
		return true
	case flags&openView != 0:
		view, err := s.ViewByID(LayerID(id))
		return err == nil && view.Open(h) == nil
	case flags&openMemory != 0:
		n := s.snapshots.Load(SnapshotID(id))
		return n != nil && n.image != nil && (Memory{n, n.image}).Open(h) == nil
	}
	f := s.files.Load(FileID(id))
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles[h] = flags&openWrites != 0
	return s.session.opened(h, f.vm.id, id, flags) == nil // it counts for the VM from here on
}

// replay does over what a VM's log has, and returns the snapshot whose heads were in use before it was committed, if
// there is one.
func (s *Store) replay(id VMID, c *catalog) (*Pending, error) {
	v := s.vms.Load(id)
	if v == nil {
		v = s.ghosts[id]
	}
	if v == nil {
		s.session.dropRing(id)
		return nil, nil
	}
	var swapped *Pending
	defer func() { v.log.replaying = 0 }()
	err := v.log.each(func(n uint64, rec logRecord) error {
		v.log.replaying = n
		if rec.kind == logSwap {
			if p, ok := c.prepared[id]; ok && p.swappedBy(rec) {
				swapped = s.swapAgain(v, p, rec)
			}
			return nil
		}
		l := s.tree.layer(rec.layer)
		if l == nil || l.owner == nil || n < l.logged {
			return nil // it is in the index, or went with its file
		}
		return l.owner.replay(rec)
	})
	return swapped, err
}

func (f *File) replay(rec logRecord) error {
	f.touch()
	switch rec.kind {
	case logSize:
		f.setSize(int64(rec.value))
		f.vm.log.append(&f.state.Load().head.writer().logged, rec.layer, rec.kind, rec.value)
		return nil
	case logData, logZero:
		return f.replayBlocks(rec)
	}
	return fmt.Errorf("a record of kind %d", rec.kind)
}

// replayBlocks takes blocks over, or lets go of them, where that is not in the index.
func (f *File) replayBlocks(rec logRecord) error {
	st := f.state.Load()
	first, last := rec.blocks()
	region := first / blockmap.RegionBlocks
	base := region * blockmap.RegionBlocks
	below, err := f.saidBelow(st, region)
	if err != nil {
		return err
	}
	for first < last {
		owner, n, err := run(st.chain.Map, int64(first*blockSize), int((last-first)*blockSize), true)
		if err != nil {
			return err
		}
		next := first + uint64(n/blockSize)
		switch {
		case rec.kind == logData && owner != st.head.id:
			f.own(st, owner, first, next)
		case rec.kind == logZero && owner != 0:
			f.disown(st, owner, below, region, int(first-base), int(next-base))
		}
		first = next
	}
	return nil
}

// swappedBy says whether a record is that of the swap that the prepared heads are from.
func (p preparedRecord) swappedBy(rec logRecord) bool {
	return rec.kind == logSwap && p.Snapshot != nil && len(p.Layers) > 0 && rec.layer == p.Layers[0]
}

// inUse says whether guests had gone on with the prepared heads.
func (s *Store) inUse(vm VMID, p preparedRecord) (used bool) {
	s.session.mu.Lock()
	_, known := s.session.ringAt[vm]
	s.session.mu.Unlock()
	if !known {
		return false
	}
	log, err := s.session.ring(vm)
	if err != nil {
		return false
	}
	_ = log.each(func(_ uint64, rec logRecord) error {
		used = used || p.swappedBy(rec)
		return nil
	})
	return used
}

// swapAgain is the instant of a snapshot, as it was.
func (s *Store) swapAgain(v *VM, prepared preparedRecord, rec logRecord) *Pending {
	n := &Snapshot{id: prepared.ID, vm: v, state: StateSealing, snapshotRecord: *prepared.Snapshot}
	h := &heads{vm: v, snap: n}
	for _, id := range prepared.Layers {
		head := s.tree.layer(id)
		f := s.files.Load(head.file)
		h.new = append(h.new, newHead{file: f, id: f.id, over: f.state.Load().head, head: head})
	}
	if prepared.By != nil {
		h.by = []Request{*prepared.By}
	}
	p := &Pending{vm: v, snap: n, heads: h}
	v.op.Lock() // until Seal
	p.Swap()
	n.snapshotRecord.Created = int64(rec.value) * int64(time.Millisecond)
	if n.Warning == "" && v.policy.Quiesce.Mode != DefaultPolicy().Quiesce.Mode {
		n.Warning = noVerdict
	}
	return p
}

// resumeHeads goes on with data files that the index does not know, and takes every head for one that was written to
// since its data was last synced. Data files of other layers that it does not know have nothing in them.
func (s *Store) resumeHeads() error {
	s.tree.RLock()
	var strays []*layer
	for _, n := range s.tree.lineages {
		for _, l := range n.layers {
			w := l.writer()
			switch {
			case l.stray && w != nil:
				l.hasFile.Store(true)
			case l.stray:
				strays = append(strays, l)
			}
			if w != nil && l.hasFile.Load() {
				w.unsynced.Store(writebackFrom + 1) // or any amount
				w.written.overflow()
			}
		}
	}
	s.tree.RUnlock()
	for _, l := range strays {
		if err := s.data.unlinkID(l.id); err != nil {
			return err
		}
	}
	return nil
}
