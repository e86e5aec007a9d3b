package layer

// Random operations on a store and on the model at the same time, restarts and crashes included.

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/blockmap"
)

func TestModel(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "run")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		stores := 0
		runMachine(t, filepath.Join(dir, "0"), func(t tester, s *Store) *Store {
			stores++
			again := kill(t, s, filepath.Join(dir, fmt.Sprint(stores)))
			require.NoError(t, os.RemoveAll(s.dir))
			return again
		})
	})
}

// runMachine makes a store in dir and runs random operations on it. crash ends it as a crash does and opens it again.
func runMachine(t *rapid.T, dir string, crash func(tester, *Store) *Store) {
	m := &machine{crashStore: crash, limit: 40 * blockSize, longest: 10 * blockSize}
	if rapid.Bool().Draw(t, "large") {
		m.limit, m.longest = 3*blockmap.RegionSize, 3<<20
	}
	var err error
	m.store, err = Open(dir, Options{
		MapMemory:    rapid.SampledFrom([]int64{0, 64 << 10}).Draw(t, "map memory"),
		MaxOpenFiles: rapid.SampledFrom([]int{0, 3}).Draw(t, "open files"),
	})
	require.NoError(t, err)
	defer func() { _ = m.store.Close() }()
	for _, name := range []string{"db", "web"} {
		makeVM(t, m.store, name)
		m.vms = append(m.vms, newModelVM(name))
	}
	t.Repeat(m.actions())
	m.compareAll(t)
	require.NoError(t, m.store.Close())
	requireSound(t, m.store.dir)
}

type machine struct {
	store      *Store
	vms        []*modelVM
	crashStore func(tester, *Store) *Store
	handle     Handle
	limit      int64 // of sizes
	longest    int   // of writes
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"write": m.write, "write again": m.write, "write more": m.write, "read": m.read, "zero": m.zero,
		"discard": m.discard, "allocate": m.allocate, "truncate": m.truncate, "flush": m.flush, "chmod": m.chmod,
		"create": m.create, "unlink": m.unlink, "rename": m.rename, "open": m.open, "close": m.close,
		"snapshot": m.snapshot, "delete snapshots": m.deleteSnapshots, "rename snapshot": m.renameSnapshot,
		"revert": m.revert, "open view": m.openView, "close views": m.closeViews,
		"settle": m.settle, "reopen": m.reopen, "crash": m.crash,
		"": m.compareFiles,
	}
}

func (m *machine) vm(t *rapid.T) (*modelVM, *VM) {
	v := rapid.SampledFrom(m.vms).Draw(t, "vm")
	return v, vmNamed(t, m.store, v.name)
}

// file picks one, or makes one where there is none.
func (m *machine) file(t *rapid.T) (*modelVM, *modelFile) {
	v, _ := m.vm(t)
	if len(v.all()) == 0 {
		m.createIn(t, v)
	}
	return v, rapid.SampledFrom(v.all()).Draw(t, "file")
}

// span draws a range: of a few bytes, of blocks, about the ends of regions.
func (m *machine) span(t *rapid.T) (off int64, n int) {
	off = rapid.Int64Range(0, m.limit-1).Draw(t, "offset")
	switch rapid.IntRange(0, 3).Draw(t, "alignment") {
	case 0:
		off &^= blockSize - 1
	case 1:
		region := rapid.Int64Range(0, m.limit/blockmap.RegionSize).Draw(t, "region") * blockmap.RegionSize
		off = max(0, region+rapid.Int64Range(-3, 3).Draw(t, "about")*blockSize)
	}
	switch rapid.IntRange(0, 3).Draw(t, "length of") {
	case 0:
		return off, rapid.IntRange(1, 100).Draw(t, "bytes")
	case 1:
		return off, rapid.IntRange(1, 4).Draw(t, "blocks") * blockSize
	}
	return off, rapid.IntRange(1, m.longest).Draw(t, "length")
}

func (m *machine) write(t *rapid.T) {
	_, f := m.file(t)
	off, n := m.span(t)
	p := pattern(rapid.Uint64().Draw(t, "data"), n)
	write(t, f.file, p, off)
	f.write(p, off)
}

func (m *machine) read(t *rapid.T) {
	_, f := m.file(t)
	off, n := m.span(t)
	p := make([]byte, n)
	got, err := f.file.Read(p, off, true)
	require.NoError(t, err)
	start := min(off, f.state.size())
	requireSame(t, f.state.data[start:min(start+int64(n), f.state.size())], p[:got], f.name)
}

func (m *machine) zero(t *rapid.T) {
	_, f := m.file(t)
	off, n := m.span(t)
	keep := rapid.Bool().Draw(t, "keep size")
	require.NoError(t, f.file.Zero(off, int64(n), keep))
	f.zero(off, int64(n), keep)
}

func (m *machine) discard(t *rapid.T) {
	_, f := m.file(t)
	off, n := m.span(t)
	require.NoError(t, f.file.Discard(off, int64(n)))
	f.zero(off, int64(n), true)
}

func (m *machine) allocate(t *rapid.T) {
	_, f := m.file(t)
	off, n := m.span(t)
	keep := rapid.Bool().Draw(t, "keep size")
	require.NoError(t, f.file.Allocate(off, int64(n), keep))
	if size := off + int64(n); !keep && size > f.state.size() {
		defer f.touches(f.state.size(), 1)()
		f.state.resize(size)
	}
}

func (m *machine) truncate(t *rapid.T) {
	v, f := m.file(t)
	size := rapid.Int64Range(0, m.limit).Draw(t, "size")
	if rapid.Bool().Draw(t, "whole blocks") {
		size &^= blockSize - 1
	}
	resize(t, f.file, size)
	f.state.resize(size)
	if !slices.Contains(v.orphans, f) {
		f.flushed()
	}
}

func (m *machine) flush(t *rapid.T) {
	_, f := m.file(t)
	require.NoError(t, f.file.Flush(rapid.Bool().Draw(t, "data only")))
	f.flushed()
}

func (m *machine) chmod(t *rapid.T) {
	_, f := m.file(t)
	mode := rapid.SampledFrom([]uint32{0o600, 0o640, 0o444}).Draw(t, "mode")
	before := f.file.Attr()
	after, err := f.file.SetAttr(SetAttr{Mode: &mode})
	require.NoError(t, err)
	require.Equal(t, before.Mtime, after.Mtime)
	f.state.mode = mode
}

var modelNames = []string{"a", "b", "c"}

func (m *machine) create(t *rapid.T) {
	v, _ := m.vm(t)
	m.createIn(t, v)
}

func (m *machine) createIn(t *rapid.T, v *modelVM) {
	name := rapid.SampledFrom(modelNames).Draw(t, "name")
	excl := rapid.Bool().Draw(t, "exclusive")
	f, created, err := vmNamed(t, m.store, v.name).Create(name, 0o644, 1, 2, excl)
	switch there := v.files[name]; {
	case there == nil:
		require.NoError(t, err)
		require.True(t, created)
		v.files[name] = newModelFile(f, name, modelState{mode: 0o644})
	case excl:
		require.ErrorIs(t, err, syscall.EEXIST)
	default:
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, there.id, f.ID())
	}
}

func (m *machine) unlink(t *rapid.T) {
	v, vm := m.vm(t)
	name := rapid.SampledFrom(modelNames).Draw(t, "name")
	err := vm.Unlink(name)
	if v.files[name] == nil {
		require.ErrorIs(t, err, syscall.ENOENT)
		return
	}
	require.NoError(t, err)
	v.unlink(name)
}

func (m *machine) rename(t *rapid.T) {
	v, vm := m.vm(t)
	from, to := rapid.SampledFrom(modelNames).Draw(t, "from"), rapid.SampledFrom(modelNames).Draw(t, "to")
	flags := rapid.SampledFrom([]RenameFlags{0, RenameNoReplace, RenameExchange}).Draw(t, "flags")
	err := vm.Rename(from, to, flags)
	f, target := v.files[from], v.files[to]
	switch {
	case f == nil, flags == RenameExchange && target == nil:
		require.ErrorIs(t, err, syscall.ENOENT)
		return
	case flags == RenameNoReplace && target != nil:
		require.ErrorIs(t, err, syscall.EEXIST)
		return
	}
	require.NoError(t, err)
	switch {
	case f == target:
	case flags == RenameExchange:
		v.files[from], v.files[to] = target, f
		f.name, target.name = to, from
	default:
		if target != nil {
			v.unlink(to)
		}
		delete(v.files, from)
		v.files[to] = f
		f.name = to
	}
}

func (m *machine) open(t *rapid.T) {
	_, f := m.file(t)
	m.handle++
	write := rapid.Bool().Draw(t, "for writing")
	require.NoError(t, f.file.Open(m.handle, write))
	f.handles[m.handle] = write
}

func (m *machine) close(t *rapid.T) {
	v, f := m.file(t)
	for h := range f.handles {
		f.file.Close(h)
	}
	clear(f.handles)
	v.orphans = slices.DeleteFunc(v.orphans, func(o *modelFile) bool { return o == f })
}

var modelSnapshots = []string{"s1", "s2", "s3", "s4", "s5"}

func (m *machine) snapshot(t *rapid.T) {
	v, vm := m.vm(t)
	o := CreateOptions{Name: rapid.SampledFrom(modelSnapshots).Draw(t, "name"), Description: "of a test"}
	files := slices.Collect(maps.Values(v.files))
	if len(files) > 1 && rapid.IntRange(0, 3).Draw(t, "not all") == 0 {
		o.Files = v.fileNames()[:1]
		files = []*modelFile{v.files[o.Files[0]]}
	}
	info, err := vm.CreateSnapshot(o)
	if v.snapshot(o.Name) != nil {
		require.ErrorIs(t, err, syscall.EEXIST)
		return
	}
	require.NoError(t, err)
	v.seal(o.Name, files, func(f *modelFile) Attr { return f.file.Attr() })
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

func (m *machine) revert(t *rapid.T) {
	v, vm := m.vm(t)
	to := v.pick(t)
	if to == nil {
		return
	}
	o := RevertOptions{Name: to.name, Discard: rapid.Bool().Draw(t, "discard"), Force: true}
	names := slices.Sorted(maps.Keys(to.files))
	if len(names) > 1 && rapid.IntRange(0, 3).Draw(t, "not all") == 0 {
		names = names[1:]
		o.Files = names
	}
	affected := v.affected(to, names, o.Files == nil)
	attrs := make(map[*modelFile]Attr)
	for _, f := range affected {
		f.file.awaitVoid()
		attrs[f] = f.file.Attr()
	}
	running := slices.ContainsFunc(affected, (*modelFile).writable)
	r, err := vm.Revert(o)
	require.NoError(t, err)
	require.Equal(t, running, r.Reset)
	require.Equal(t, o.Discard, r.Kept == "")
	if !o.Discard {
		v.seal(r.Kept, affected, func(f *modelFile) Attr { return attrs[f] }).undo = true
	}
	v.revert(to, names, affected, func(name string) *File { return fileNamed(t, vm, name) })
	if !o.Discard {
		v.thin()
	}
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

// settle waits for the reclaimer: nothing that is to be given back is left.
func (m *machine) settle(t *rapid.T) {
	settle(t, m.store)
	require.Zero(t, m.store.Stats().ReclaimBytes)
	m.compareAll(t)
}

func (m *machine) reopen(t *rapid.T) {
	attrs := make(map[*modelFile]Attr)
	for _, v := range m.vms {
		for _, f := range v.files {
			f.file.awaitVoid()
			attrs[f] = f.file.Attr()
			f.flushed()
		}
	}
	require.NoError(t, m.store.Close())
	requireSound(t, m.store.dir)
	s, err := Open(m.store.dir, m.store.opts)
	require.NoError(t, err)
	m.restarted(t, s)
	for f, want := range attrs {
		got := f.file.Attr()
		want.Atime = got.Atime // it is not kept
		require.Equal(t, want, got)
	}
	m.compareAll(t)
}

func (m *machine) crash(t *rapid.T) {
	m.restarted(t, m.crashStore(t, m.store))
	for _, v := range m.vms {
		for _, f := range v.files {
			got := observe(t, f.file.Read, f.file.FindExtent, f.file.Attr())
			require.Equal(t, f.state.mode, got.mode)
			f.adopt(t, got)
		}
	}
	m.compareAll(t)
}

// restarted forgets what does not survive a restart, and finds the files again.
func (m *machine) restarted(t *rapid.T, s *Store) {
	m.store = s
	for _, v := range m.vms {
		v.orphans = nil
		vm := vmNamed(t, s, v.name)
		for name, f := range v.files {
			f.file = fileNamed(t, vm, name)
			require.Equal(t, f.id, f.file.ID())
			clear(f.handles)
			f.file.awaitVoid()
		}
		for _, n := range v.snapshots {
			clear(n.open)
		}
	}
}

// compareFiles compares all files with the model.
func (m *machine) compareFiles(t *rapid.T) {
	for _, v := range m.vms {
		var names []string
		for _, e := range vmNamed(t, m.store, v.name).Files() {
			names = append(names, e.Name)
		}
		require.Equal(t, v.fileNames(), names)
		for _, f := range v.all() {
			f.file.awaitVoid()
			require.Equal(t, f.name, f.file.Name())
			requireState(t, f.state, observe(t, f.file.Read, f.file.FindExtent, f.file.Attr()), "%s/%s", v.name, f.name)
		}
	}
}

// compareAll compares the snapshots too.
func (m *machine) compareAll(t *rapid.T) {
	m.compareFiles(t)
	for _, v := range m.vms {
		vm := vmNamed(t, m.store, v.name)
		all := vm.Snapshots()
		require.Len(t, all, len(v.snapshots))
		for i, want := range v.snapshots {
			compareSnapshot(t, v, want, all[i])
		}
		if status := vm.Status(); v.head != nil {
			require.Equal(t, v.head.name, *status.Head)
		} else {
			require.Nil(t, status.Head)
		}
	}
}

func compareSnapshot(t tester, v *modelVM, want *modelSnapshot, n *Snapshot) {
	info := n.Info()
	require.Equal(t, want.name, info.Name)
	require.Equal(t, StateReady, info.State)
	require.Equal(t, v.head == want, info.Head)
	require.ElementsMatch(t, want.excluded, info.Excluded)
	if want.parent == nil {
		require.Nil(t, info.Parent)
	} else {
		require.NotNil(t, info.Parent)
		require.Equal(t, want.parent.name, *info.Parent)
	}
	views := n.Views()
	require.Len(t, views, len(want.files))
	for _, w := range views {
		e := want.files[w.Name()]
		a := w.Attr()
		require.Equal(t, e.attr.Mtime, a.Mtime)
		require.NoError(t, w.Open(viewHandle))
		e.state.mode &^= 0o222
		requireState(t, e.state, observe(t, w.Read, w.FindExtent, a), "%s@%s/%s", v.name, want.name, w.Name())
		w.Close(viewHandle)
	}
}
