package layer

// Status of a VM: how large it is and how fast it grows.

import "time"

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
	st.Allocated, st.GrowthPerHour = v.growth()
	st.Reasons = append(st.Reasons, v.overAge()...)
	st.Compliant = len(st.Reasons) == 0
	return st
}

func (v *VM) headNameLocked() string {
	if n := v.store.snapshots.Load(v.head); n != nil {
		return n.snapshotRecord.Name
	}
	return ""
}

// growth is how many bytes the layers of the VM hold, those of snapshots included, and how many of them came in an
// hour since the oldest snapshot: what snapshots cost, as without any a disk is overwritten in place.
func (v *VM) growth() (held, perHour int64) {
	s := v.store
	var since int64
	ours := make(map[LayerID]bool)
	for _, n := range v.Snapshots() {
		if since == 0 {
			since = n.snapshotRecord.Created
		}
		for _, e := range n.Files {
			ours[e.Layer] = true
		}
	}
	for _, e := range v.Files() {
		ours[e.File.state.Load().head.id] = true
	}
	var grown int64
	for id := range ours {
		if l := s.tree.layer(id); l != nil {
			bytes := l.blocks.Load() * blockSize
			held += bytes
			if since != 0 && l.created >= since {
				grown += bytes
			}
		}
	}
	if since == 0 {
		return held, 0
	}
	hours := max(time.Since(time.Unix(0, since)).Hours(), 1.0/60)
	return held, int64(float64(grown) / hours)
}
