package layer

// What random operations do to snapshots, previews and clones.

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var modelSnapshots = []string{"s1", "s2", "s3", "s4", "s5"}

func (m *machine) snapshot(t *rapid.T) {
	v, vm := m.vm(t)
	o := CreateOptions{Name: rapid.SampledFrom(modelSnapshots).Draw(t, "name"), Description: "of a test"}
	files := slices.Collect(maps.Values(v.files))
	if len(files) > 1 && rapid.IntRange(0, 3).Draw(t, "not all") == 0 {
		o.Files = v.fileNames()[:1]
		files = []*modelFile{v.files[o.Files[0]]}
	}
	o.Held = rapid.Bool().Draw(t, "held")
	if rapid.Bool().Draw(t, "long after the last flush") {
		longAfterFlushes(vm)
	}
	info, err := vm.CreateSnapshot(o)
	switch {
	case v.hidden != nil && err != nil:
		require.ErrorIs(t, err, syscall.EBUSY)
		return
	case v.snapshot(o.Name) != nil:
		require.ErrorIs(t, err, syscall.EEXIST)
		return
	}
	require.NoError(t, err)
	require.Nil(t, v.hidden)
	v.head = v.seal(o.Name, files, func(f *modelFile) Attr { return f.file.Attr() })
	v.add(v.head)
	consistency := ConsistencyOff
	if slices.ContainsFunc(files, (*modelFile).writable) {
		consistency = ConsistencyCrash
	}
	require.Equal(t, consistency, info.Consistency)
}

// pick draws a snapshot; nil where there is none.
func (v *modelVM) pick(t *rapid.T) *modelSnapshot {
	if len(v.snapshots) == 0 {
		return nil
	}
	return rapid.SampledFrom(v.snapshots).Draw(t, "snapshot")
}

func (m *machine) deleteSnapshots(t *rapid.T) {
	v, vm := m.vm(t)
	var gone []*modelSnapshot
	var names []string
	for range rapid.IntRange(1, 3).Draw(t, "how many") {
		if n := v.pick(t); n != nil && len(n.open) == 0 {
			gone, names = append(gone, n), append(names, n.name)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "none of them") == 0 {
		names = append(names, "not there")
	}
	_, err := vm.DeleteSnapshots(names)
	switch {
	case len(names) == 0:
		require.ErrorIs(t, err, syscall.EINVAL)
	case len(names) > len(gone):
		require.ErrorIs(t, err, syscall.ENOENT)
	case v.hidden != nil && slices.Contains(gone, v.head):
		require.ErrorIs(t, err, syscall.EBUSY)
	default:
		require.NoError(t, err)
		v.remove(gone...)
	}
}

func (m *machine) renameSnapshot(t *rapid.T) {
	v, vm := m.vm(t)
	n, to := v.pick(t), rapid.SampledFrom(modelSnapshots).Draw(t, "to")
	if n == nil {
		return
	}
	_, err := vm.RenameSnapshot(n.name, to)
	if other := v.snapshot(to); other != nil && other != n {
		require.ErrorIs(t, err, syscall.EEXIST)
		return
	}
	require.NoError(t, err)
	if n.name != to {
		n.name, n.undo = to, false
	}
}

// target draws a snapshot to go to, and which of its files are to come; without files all of them.
func (v *modelVM) target(t *rapid.T) (to *modelSnapshot, names, files []string) {
	to = v.pick(t)
	if to == nil {
		return nil, nil, nil
	}
	names = slices.Sorted(maps.Keys(to.files))
	if len(names) > 1 && rapid.IntRange(0, 3).Draw(t, "not all") == 0 {
		return to, names[1:], names[1:]
	}
	return to, names, nil
}

// leave notes what the files that a change affects are before it.
func (v *modelVM) leave(affected []*modelFile) (attr func(*modelFile) Attr, running bool) {
	attrs := make(map[*modelFile]Attr)
	for _, f := range affected {
		f.file.awaitVoid()
		attrs[f] = f.file.Attr()
	}
	return func(f *modelFile) Attr { return attrs[f] }, slices.ContainsFunc(affected, (*modelFile).writable)
}

func (m *machine) revert(t *rapid.T) {
	v, vm := m.vm(t)
	to, names, files := v.target(t)
	if to == nil {
		return
	}
	o := RevertOptions{Name: to.name, Discard: rapid.Bool().Draw(t, "discard"), Force: true, Files: files}
	affected := v.affected(to, names, files == nil)
	attr, running := v.leave(affected)
	r, err := vm.Revert(o)
	if v.hidden != nil {
		require.ErrorIs(t, err, syscall.EBUSY)
		return
	}
	require.NoError(t, err)
	require.Equal(t, running, r.Reset)
	require.Equal(t, o.Discard, r.Kept == "")
	if !o.Discard {
		kept := v.seal(r.Kept, affected, attr)
		kept.undo = true
		v.add(kept)
	}
	v.revert(to, names, affected, func(name string) *File { return fileNamed(t, vm, name) })
	v.thin(to)
}

func (m *machine) preview(t *rapid.T) {
	v, vm := m.vm(t)
	to, names, files := v.target(t)
	if to == nil {
		return
	}
	affected := v.affected(to, names, files == nil)
	attr, running := v.leave(affected)
	r, err := vm.Preview(PreviewOptions{Name: to.name, Force: true, Files: files})
	if v.hidden != nil {
		require.ErrorIs(t, err, syscall.EBUSY)
		return
	}
	require.NoError(t, err)
	require.Equal(t, running, r.Reset)
	v.hidden = v.seal("", affected, attr)
	v.revert(to, names, affected, func(name string) *File { return fileNamed(t, vm, name) })
}

func (m *machine) undo(t *rapid.T) {
	v, vm := m.vm(t)
	if v.hidden == nil {
		_, err := vm.Undo(true)
		require.ErrorIs(t, err, syscall.EINVAL)
		return
	}
	names := slices.Sorted(maps.Keys(v.hidden.files))
	affected := v.affected(v.hidden, names, true)
	_, running := v.leave(affected)
	r, err := vm.Undo(true)
	require.NoError(t, err)
	require.Equal(t, running, r.Reset)
	require.Equal(t, v.head.name, r.Snapshot.Name)
	head := v.hidden.parent
	v.revert(v.hidden, names, affected, func(name string) *File { return fileNamed(t, vm, name) })
	v.head, v.hidden = head, nil
}

func (m *machine) commit(t *rapid.T) {
	v, vm := m.vm(t)
	r, err := vm.CommitPreview()
	if v.hidden == nil {
		require.ErrorIs(t, err, syscall.EINVAL)
		return
	}
	require.NoError(t, err)
	require.Equal(t, v.head.name, r.Snapshot.Name)
	v.hidden.name, v.hidden.undo = r.Kept, true
	v.add(v.hidden)
	v.hidden = nil
	v.thin(v.head)
}

func (m *machine) clone(t *rapid.T) {
	v, vm := m.vm(t)
	n := v.pick(t)
	if n == nil {
		return
	}
	name := rapid.SampledFrom([]string{"clone1", "clone2"}).Draw(t, "name")
	c, err := vm.Clone(n.name, name)
	if slices.ContainsFunc(m.vms, func(v *modelVM) bool { return v.name == name }) {
		require.ErrorIs(t, err, syscall.EEXIST)
		return
	}
	require.NoError(t, err)
	clone := newModelVM(name)
	for name, e := range n.files {
		clone.files[name] = newModelFile(fileNamed(t, c, name), name, e.state.clone())
	}
	m.vms = append(m.vms, clone)
}

// destroy removes a clone and all that is its own.
func (m *machine) destroy(t *rapid.T) {
	v, vm := m.vm(t)
	if !strings.HasPrefix(v.name, "clone") || v.hidden != nil {
		return
	}
	for _, n := range v.snapshots {
		if len(n.open) > 0 {
			return
		}
	}
	for _, name := range v.fileNames() {
		require.ErrorIs(t, m.store.RemoveVM(v.name), syscall.ENOTEMPTY)
		require.NoError(t, vm.Unlink(name))
	}
	for _, n := range v.snapshots {
		drop(t, vm, n.name)
	}
	require.NoError(t, m.store.RemoveVM(v.name))
	m.vms = slices.DeleteFunc(m.vms, func(o *modelVM) bool { return o == v })
}

func (m *machine) openView(t *rapid.T) {
	v, vm := m.vm(t)
	n := v.pick(t)
	if n == nil || len(n.files) == 0 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(n.files))).Draw(t, "file")
	if n.open[name] != nil {
		return
	}
	snap, err := vm.Snapshot(n.name)
	require.NoError(t, err)
	w, err := snap.View(name)
	require.NoError(t, err)
	m.handle++
	require.NoError(t, w.Open(m.handle))
	n.open[name] = w
}

func (m *machine) closeViews(t *rapid.T) {
	v, _ := m.vm(t)
	for _, n := range v.snapshots {
		for _, w := range n.open {
			for h := range w.handles {
				w.Close(h)
			}
		}
		clear(n.open)
	}
}
