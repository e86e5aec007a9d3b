package layer

// Creating a snapshot, in three steps, so that a guest can be frozen for the second alone.
//
//	Prepare: flush, commit new heads as prepared       crash: the start undoes the heads
//	         make their data files                     crash: the same, and removes the files
//	Swap: the heads, in memory                         crash: the same; nothing above the old heads was flushed
//	Seal: sync and commit the old heads                crash: the same
//	      commit the snapshot                          crash: it is there, and worth what is certain
//	      commit the verdict                           crash: it is there, with its label, or not at all

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// snapshotRoom is what must be free above the reserve for a snapshot, in bytes: more than its records take, and no less
// than the largest write, so that where guests are refused snapshots are too.
const snapshotRoom = 1 << 20

// CreateSnapshot makes a snapshot of the VM at one instant; EEXIST, EINVAL, ENOENT for a file that is not there, EDQUOT
// at a limit of the policy, ENOSPC below the reserve. Guests wait for the swap of heads only. It returns when the
// snapshot would survive a power loss.
func (v *VM) CreateSnapshot(o CreateOptions) (SnapshotInfo, error) {
	p, err := v.PrepareSnapshot(o)
	if err != nil {
		return SnapshotInfo{}, err
	}
	p.Swap()
	return p.Seal(nil)
}

// Pending is a snapshot that is being made. No other operation of the VM runs until Seal or Abort.
type Pending struct {
	vm    *VM
	snap  *Snapshot
	heads *heads
	image *Image // of the machine's memory, or nil
	old   []left // once swapped
	swap  hold   // of the log's record of that
	done  sync.Once
}

// Verdict is what is known of a snapshot once the guest goes on: its label, a warning, or why it is worth nothing.
type Verdict struct {
	Consistency, Warning string
	Err                  error
}

// Warnings of a snapshot whose verdict a crash kept from coming.
const (
	noVerdict = "the daemon ended before it was known whether the guest was quiet"
	noMemory  = "the daemon ended before the machine's memory was saved"
)

// MayCreate says what would keep such a snapshot from being prepared now, with PrepareSnapshot's errors, and whether a
// file of it is open for writing: if none is, there is no guest to freeze.
func (v *VM) MayCreate(o CreateOptions) (running bool, err error) {
	v.op.Lock()
	defer v.op.Unlock()
	if err := v.mayCreate(o); err != nil {
		return false, err
	}
	files, _, err := v.selectFiles(o.Files)
	return slices.ContainsFunc(files, func(f *File) bool { return f.openFor(true) }), err
}

// PrepareSnapshot does what a guest need not wait for: after it, little is left to write (ahead.go). Its errors are
// CreateSnapshot's, and leave nothing behind.
func (v *VM) PrepareSnapshot(o CreateOptions) (*Pending, error) {
	v.op.Lock()
	p, err := v.prepareSnapshot(o)
	if err != nil {
		v.op.Unlock()
		return nil, err
	}
	return p, nil
}

func (v *VM) prepareSnapshot(o CreateOptions) (*Pending, error) {
	if err := v.mayCreate(o); err != nil {
		return nil, err
	}
	files, others, err := v.selectFiles(o.Files)
	if err != nil {
		return nil, err
	}
	n := v.newSnapshot(o)
	for _, e := range others {
		n.Excluded = append(n.Excluded, e.Name)
		n.ExcludedIDs = append(n.ExcludedIDs, e.File.id)
	}
	if o.Image != nil {
		n.Warning = noMemory
		if o.Running != nil && *o.Running {
			n.Consistency = ConsistencyCrash // QEMU gives the files back before the swap
		}
	}
	if err := n.fits(files, 2*len(o.By.Text)); err != nil {
		return nil, err
	}
	h := &heads{vm: v, snap: n, about: o.Machine}
	if o.By.ID != 0 {
		h.by = []Request{o.By}
	}
	for _, f := range files {
		f.awaitVoid()
		if err := f.flushAhead(o.Held); err != nil {
			return nil, err
		}
		h.new = append(h.new, newHead{file: f, id: f.id, over: f.state.Load().head})
	}
	if err := h.prepare(); err != nil {
		return nil, err
	}
	if err := h.makeFiles(); err != nil {
		h.undo()
		return nil, err
	}
	return &Pending{vm: v, snap: n, heads: h, image: o.Image}, nil
}

// fits refuses, before anything is done, a snapshot whose record would be too large for the index: 1 MiB. Quotes and
// backslashes take two bytes, and what is not a name up to 200 a file. also is for what else is in the record, in bytes.
func (n *Snapshot) fits(files []*File, also int) error {
	size := 1024 + 2*len(n.Description) + also
	for _, f := range files {
		size += 2*len(f.Name()) + 200
	}
	for _, name := range n.Excluded {
		size += 2*len(name) + 32
	}
	if size > 1<<20 {
		return Errorf(syscall.ENOSPC, "VM %q has too many files with too long names for one snapshot", n.vm.Name())
	}
	return nil
}

// mayCreate says what keeps a snapshot from being made.
func (v *VM) mayCreate(o CreateOptions) error {
	if err := CheckName(NameSnapshot, o.Name); err != nil {
		return err
	}
	if err := v.present(""); err != nil {
		return err
	}
	if err := v.refusePreview("create a snapshot"); err != nil {
		return err
	}
	if _, err := v.Snapshot(o.Name); err == nil {
		return Errorf(syscall.EEXIST, "VM %q has a snapshot %q already", v.Name(), o.Name)
	}
	if err := v.checkLimits(o.Auto); err != nil {
		return err
	}
	if len(o.Machine) > MaxMachine {
		return Errorf(syscall.EINVAL, "the machine's description has %d bytes, more than %d", len(o.Machine), MaxMachine)
	}
	return v.store.space.take(snapshotRoom)
}

// Running says whether a file of the snapshot is open for writing: if none is, there is no guest to freeze.
func (p *Pending) Running() bool {
	return slices.ContainsFunc(p.heads.new, func(n newHead) bool { return n.file.openFor(true) })
}

// Swap is the instant that the snapshot shows. Guests wait for it in memory only. From here until the old heads are
// sealed, flushes wait: what they would promise lies partly in the old heads.
func (p *Pending) Swap() {
	p.vm.sealing.Lock()
	p.old = p.vm.swap(p.snap, p.heads, &p.swap)
}

// Seal makes the snapshot durable. Then it asks judge, if there is one, for the verdict; if that is an error, the
// snapshot goes again, and the error is Seal's. Nobody sees the snapshot before. Flushes go on before judge is asked: a
// guest that thaws writes and flushes, and the verdict waits for it. The machine's memory is synced after the verdict.
func (p *Pending) Seal(judge func() Verdict) (info SnapshotInfo, err error) {
	p.done.Do(func() { info, err = p.seal(judge) })
	return info, err
}

func (p *Pending) seal(judge func() Verdict) (SnapshotInfo, error) {
	v, n := p.vm, p.snap
	defer v.op.Unlock()
	if judge != nil && n.Warning == "" {
		n.Warning = noVerdict
	}
	err := seal(p.old)
	if err == nil {
		err = p.commit()
	}
	if err != nil {
		v.abandon(p.heads, p.old)
		v.sealing.Unlock()
		return SnapshotInfo{}, err
	}
	p.heads.recorded()
	v.ownSealed(n, p.old)
	v.log.release(&p.swap)
	v.sealing.Unlock()
	if judge != nil || p.image != nil {
		if err := p.judged(judge); err != nil {
			return SnapshotInfo{}, errors.Join(err, v.dropSnapshots([]*Snapshot{n}, p.forget))
		}
	}
	v.showSnapshot(n)
	if n.image != nil {
		v.store.images.add(n.image) // to be packed
	}
	return n.Info(), nil
}

// judged gives the snapshot its label and its memory, or returns why it has to go.
func (p *Pending) judged(judge func() Verdict) error {
	var verdict Verdict
	if judge != nil {
		verdict = judge()
	}
	if verdict.Err != nil {
		return verdict.Err
	}
	if p.image == nil {
		return p.label(verdict)
	}
	size, err := p.image.finish()
	if err != nil {
		return err
	}
	return p.label(verdict, p.image.own(p.snap, size))
}

// label commits the verdict, with what else is to be committed then.
func (p *Pending) label(verdict Verdict, also ...func(*blockmap.Tx) error) error {
	v, n := p.vm, p.snap
	v.mu.RLock()
	consistency := n.Consistency
	v.mu.RUnlock()
	if verdict.Consistency != "" && consistency != ConsistencyOff {
		consistency = verdict.Consistency
	}
	err := v.store.update(func(tx *blockmap.Tx) error {
		for _, put := range also {
			if err := put(tx); err != nil {
				return err
			}
		}
		return edit(tx, catalogKey(tableSnapshot, n.id), func(r *snapshotRecord) {
			r.Consistency, r.Warning = consistency, verdict.Warning
		})
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	n.Consistency, n.Warning = consistency, verdict.Warning
	return nil
}

// Relabel gives a snapshot that Seal made a better label, or a warning, durably: what is done in its name after the
// guest went on may tell more of it. ENOENT if it is gone.
func (p *Pending) Relabel(verdict Verdict) (SnapshotInfo, error) {
	p.vm.op.Lock()
	defer p.vm.op.Unlock()
	if _, err := p.vm.store.SnapshotByID(p.snap.id); err != nil {
		return SnapshotInfo{}, Errorf(syscall.ENOENT, "the snapshot is deleted already")
	}
	if err := p.label(verdict); err != nil {
		return SnapshotInfo{}, err
	}
	return p.snap.Info(), nil
}

// Abort ends a snapshot that was prepared and not swapped. After Seal it does nothing.
func (p *Pending) Abort() {
	p.done.Do(func() {
		p.heads.undo()
		p.vm.op.Unlock()
	})
}

// selectFiles are the named ones, or all, and the others. What the policy excludes is not among them unless named.
func (v *VM) selectFiles(names []string) (files []*File, others []FileEntry, err error) {
	policy := v.Policy()
	for _, name := range names {
		if _, err := v.Lookup(name); err != nil {
			return nil, nil, err
		}
	}
	for _, e := range v.Files() {
		wanted := slices.Contains(names, e.Name) || names == nil && !slices.Contains(policy.Exclude, e.Name)
		switch {
		case !wanted:
			others = append(others, e)
		case slices.Contains(policy.Shareable, e.Name):
			return nil, nil, Errorf(syscall.EINVAL, "file %q of VM %q is shareable, so that no snapshot of it is one instant; exclude it by the policy or leave it out by files=", e.Name, v.Name())
		default:
			files = append(files, e.File)
		}
	}
	return files, others, nil
}

func (v *VM) newSnapshot(o CreateOptions) *Snapshot {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return &Snapshot{id: SnapshotID(v.store.newID()), vm: v, state: StateSealing, snapshotRecord: snapshotRecord{
		VM: v.id, Name: o.Name, Parent: v.head, Description: o.Description, Auto: o.Auto, Running: o.Running, Consistency: ConsistencyOff,
	}}
}

// swap is the instant: guests wait for it and for nothing else. A worker that takes over knows of it from the log.
func (v *VM) swap(n *Snapshot, h *heads, swapped *hold) []left {
	old := make([]left, 0, len(h.new))
	v.barrier.Lock()
	defer v.barrier.Unlock()
	n.snapshotRecord.Created = time.Now().UnixNano()
	for _, nh := range h.new {
		if nh.file.openFor(true) {
			n.Consistency = ConsistencyCrash
		}
		o := nh.file.leave()
		old = append(old, o)
		n.Files = append(n.Files, o.entry())
		nh.file.setHead(nh.head, nh.file.state.Load())
	}
	if len(h.new) > 0 {
		v.log.append(swapped, h.new[0].head.id, logSwap, uint64(n.snapshotRecord.Created/int64(time.Millisecond)))
	}
	return old
}

func (p *Pending) commit() error {
	v, n := p.vm, p.snap
	done := doneRecord{Snapshot: n.id, Name: n.snapshotRecord.Name}
	return v.store.updateFreeing(v.store.withDone(p.heads.by, done, func(tx *blockmap.Tx) error {
		tx.Delete(catalogKey(tablePrepared, v.id))
		put(tx, catalogKey(tableSnapshot, n.id), n.snapshotRecord)
		for i, nh := range p.heads.new {
			err := edit(tx, catalogKey(tableFile, nh.file.id), func(r *fileRecord) {
				r.Head = nh.head.id
				r.setMeta(p.old[i].meta)
			})
			if err == nil && nh.made {
				err = edit(tx, catalogKey(tableLayer, nh.head.id), func(r *layerRecord) { r.HasFile = true })
			}
			if err != nil {
				return err
			}
		}
		return edit(tx, catalogKey(tableVM, v.id), func(r *vmRecord) { r.Head = n.id })
	}))
}

// forget takes back that it is done.
func (p *Pending) forget(tx *blockmap.Tx) {
	for _, request := range p.heads.by {
		tx.Delete(catalogKey(tableDone, request.ID))
	}
}

// ownSealed hands the old heads to the snapshot, now that it is durable.
func (v *VM) ownSealed(n *Snapshot, old []left) {
	t := v.store.tree
	t.Lock()
	for _, o := range old {
		o.head.snap = n
	}
	t.Unlock()
	for _, o := range old {
		o.sealed()
	}
}

// showSnapshot lets the snapshot be seen.
func (v *VM) showSnapshot(n *Snapshot) {
	n.state = StateReady
	v.addSnapshot(n)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.head = n.id
}

// abandon ends a snapshot that could not be sealed. Guests have written to the new heads, so they stay, over the old
// ones, and the VM reads as before; but what the old ones held may be lost, so no flush over them succeeds again. A
// start undoes the heads, as nothing in them was ever promised.
func (v *VM) abandon(h *heads, old []left) {
	for i, nh := range h.new {
		v.store.fail(nh.head)
		v.store.fail(old[i].head)
	}
}

func (f *File) awaitVoid() {
	if g := f.voiding.Load(); g != nil {
		<-*g
	}
}
