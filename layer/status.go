package layer

// Status: how a VM and how the whole store stand.

import (
	"slices"
	"time"
)

// Status says how the VM stands.
func (v *VM) Status() VMStatus {
	st := VMStatus{VM: v.Name(), Files: []FileInfo{}, Compliant: true, Reasons: []string{}}
	for _, e := range v.Files() {
		a := e.File.Attr()
		info := FileInfo{Name: e.Name, Size: a.Size, Allocated: int64(a.Blocks) * 512}
		st.Files = append(st.Files, info)
		st.Virtual += info.Size
	}
	v.mu.RLock()
	if n := v.snapshots[v.headNameLocked()]; n != nil {
		name := n.snapshotRecord.Name
		st.Head = &name
		if v.preview != 0 {
			st.Preview = &name
		}
	}
	v.mu.RUnlock()
	st.Allocated = v.store.held()[v]
	rate, over := v.growthPerHour(st.Allocated)
	st.GrowthPerHour = rate
	_, free := v.store.space.measure()
	st.FullAt = fullAt(max(0, free-v.store.space.reserve), rate, over)
	st.Reasons = append(st.Reasons, v.OverAge()...)
	st.Compliant = len(st.Reasons) == 0
	return st
}

// InUse says whether somebody has a file of the VM open for writing: a guest runs.
func (v *VM) InUse() bool {
	return slices.ContainsFunc(v.Files(), func(e FileEntry) bool { return e.File.openFor(true) })
}

func (v *VM) headNameLocked() string {
	if n := v.store.snapshots.Load(v.head); n != nil {
		return n.snapshotRecord.Name
	}
	return ""
}

// Stats says how the store stands.
func (s *Store) Stats() Stats {
	st := Stats{Reserve: s.space.reserve, OpenFiles: s.data.count(), ReclaimBytes: s.reclaim.pending.Load()}
	st.Total, st.Free = s.space.measure()
	st.Avail = max(0, st.Free-st.Reserve)
	held := s.held()
	var longest time.Duration
	for _, v := range s.VMs() {
		rate, over := v.growthPerHour(held[v])
		st.GrowthPerHour += rate
		longest = max(longest, over)
	}
	st.FullAt = fullAt(st.Avail, st.GrowthPerHour, longest)
	if v, _ := s.fastest(); v != nil {
		st.Fastest = v.Name()
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	s.tree.eachLocked(func(l *layer) {
		st.Layers++
		st.LayerBytes += l.blocks.Load() * blockSize
		if !l.summed.Load() {
			st.UnsummedBytes += l.blocks.Load() * blockSize
		}
		if !l.liveLocked() {
			st.RetiredLayers++
		}
	})
	return st
}
