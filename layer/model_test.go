package layer

// A store's contract in plain memory: what files and snapshots hold after each operation, and what may be there after a
// crash. machine_test.go drives it and a store with the same operations.

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/stretchr/testify/require"
)

type modelVM struct {
	name      string
	files     map[string]*modelFile
	orphans   []*modelFile // unlinked, and open
	snapshots []*modelSnapshot
	head      *modelSnapshot
	hidden    *modelSnapshot // what the VM was before its preview
}

// modelState is what a file shows. Once shared with a snapshot it is never changed, but replaced.
type modelState struct {
	data []byte
	held []bool // by block: reads as data
	mode uint32
}

type modelFile struct {
	id      FileID
	file    *File
	name    string
	state   modelState
	handles map[Handle]bool

	// What a crash may show: any size and, of a block, any content since the last flush.
	sizes    []int64
	versions map[int64][][]byte
}

type modelEntry struct {
	id    FileID
	state modelState
	attr  Attr // as the store had it
}

type modelSnapshot struct {
	name     string
	parent   *modelSnapshot
	undo     bool
	excluded map[string]FileID
	files    map[string]modelEntry
	open     map[string]*View
}

func newModelVM(name string) *modelVM { return &modelVM{name: name, files: map[string]*modelFile{}} }

func newModelFile(f *File, name string, state modelState) *modelFile {
	m := &modelFile{id: f.ID(), file: f, name: name, state: state, handles: map[Handle]bool{}}
	m.flushed()
	return m
}

func (s modelState) clone() modelState {
	return modelState{data: bytes.Clone(s.data), held: slices.Clone(s.held), mode: s.mode}
}

func (s modelState) size() int64 { return int64(len(s.data)) }

// blocks counts what st_blocks shows, in units of 512 bytes.
func (s modelState) blocks() (n uint64) {
	for _, held := range s.held {
		if held {
			n += blockSize / 512
		}
	}
	return n
}

// block is the content of a block, with zeros behind the end.
func (s modelState) block(i int64) []byte {
	p := make([]byte, blockSize)
	if off := i * blockSize; off < s.size() {
		copy(p, s.data[off:])
	}
	return p
}

// extents are the ranges that FindExtent has to find.
func (s modelState) extents() (all [][2]int64) {
	for i, held := range s.held {
		start, end := int64(i)*blockSize, min(int64(i+1)*blockSize, s.size())
		switch {
		case !held:
		case len(all) > 0 && all[len(all)-1][1] == start:
			all[len(all)-1][1] = end
		default:
			all = append(all, [2]int64{start, end})
		}
	}
	return all
}

func (s *modelState) resize(size int64) {
	blocks := int((size + blockSize - 1) / blockSize)
	if size <= s.size() {
		s.data, s.held = s.data[:size:size], s.held[:blocks:blocks]
		return
	}
	s.data = append(s.data, make([]byte, size-s.size())...)
	s.held = append(s.held, make([]bool, blocks-len(s.held))...)
}

// touches notes that blocks of a range are about to change; call changed afterwards.
func (f *modelFile) touches(off, n int64) (changed func()) {
	if n <= 0 {
		return func() { f.sizes = append(f.sizes, f.state.size()) }
	}
	first, last := off/blockSize, (off+n-1)/blockSize
	for i := first; i <= last; i++ {
		if f.versions[i] == nil {
			f.versions[i] = [][]byte{f.state.block(i)}
		}
	}
	return func() {
		f.sizes = append(f.sizes, f.state.size())
		for i := first; i <= last; i++ {
			f.versions[i] = append(f.versions[i], f.state.block(i))
		}
	}
}

func (f *modelFile) write(p []byte, off int64) {
	n := int64(len(p))
	defer f.touches(off, n)()
	if off+n > f.state.size() {
		f.state.resize(off + n)
	}
	copy(f.state.data[off:], p)
	for i := off / blockSize; i <= (off+n-1)/blockSize; i++ {
		f.state.held[i] = true
	}
}

// zero is discard, too. The last block goes on to where it ends.
func (f *modelFile) zero(off, n int64, keepSize bool) {
	end := off + n
	if end > f.state.size() && !keepSize {
		f.state.resize(end)
	}
	end = min(end, (f.state.size()+blockSize-1)&^(blockSize-1))
	defer f.touches(off, end-off)()
	if off >= end {
		return
	}
	if size := f.state.size(); off < size {
		clear(f.state.data[off:min(end, size)])
	}
	for i := (off + blockSize - 1) / blockSize; i < end/blockSize; i++ {
		f.state.held[i] = false
	}
}

// flushed says that what the file shows survives a crash.
func (f *modelFile) flushed() {
	f.sizes, f.versions = []int64{f.state.size()}, map[int64][][]byte{}
}

// adopt takes over what a crash left, if it may have.
func (f *modelFile) adopt(t tester, got modelState) {
	require.Contains(t, f.sizes, got.size(), "size of %s after a crash", f.name)
	for i := range int64(len(got.held)) {
		from := i * blockSize
		to := min(from+blockSize, got.size())
		allowed := f.versions[i]
		if allowed == nil {
			allowed = [][]byte{f.state.block(i)}
		}
		require.True(t, slices.ContainsFunc(allowed, func(p []byte) bool {
			return bytes.Equal(p[:to-from], got.data[from:to])
		}), "block %d of %s after a crash is nothing that was there since the last flush", i, f.name)
	}
	f.state = got
	f.flushed()
}

func (f *modelFile) writable() bool {
	return slices.Contains(slices.Collect(maps.Values(f.handles)), true)
}

func (v *modelVM) unlink(name string) {
	f := v.files[name]
	delete(v.files, name)
	if len(f.handles) > 0 {
		v.orphans = append(v.orphans, f)
	}
}

func (v *modelVM) fileNames() []string { return slices.Sorted(maps.Keys(v.files)) }

// all are the files that can be used, the orphans too.
func (v *modelVM) all() []*modelFile {
	var files []*modelFile
	for _, name := range v.fileNames() {
		files = append(files, v.files[name])
	}
	return append(files, v.orphans...)
}

func (v *modelVM) snapshot(name string) *modelSnapshot {
	for _, n := range v.snapshots {
		if n.name == name {
			return n
		}
	}
	return nil
}

// seal makes a snapshot of files, which grew from the present head. attr is what the store says of one.
func (v *modelVM) seal(name string, files []*modelFile, attr func(*modelFile) Attr) *modelSnapshot {
	n := &modelSnapshot{
		name: name, parent: v.head, excluded: map[string]FileID{}, files: map[string]modelEntry{}, open: map[string]*View{},
	}
	for _, name := range v.fileNames() {
		f := v.files[name]
		if !slices.Contains(files, f) {
			n.excluded[name] = f.id
			continue
		}
		n.files[name] = modelEntry{id: f.id, state: f.state.clone(), attr: attr(f)}
		f.flushed()
	}
	return n
}

// add shows a snapshot, the newest.
func (v *modelVM) add(n *modelSnapshot) { v.snapshots = append(v.snapshots, n) }

// remove deletes snapshots: those that grew from them grow from what they grew from.
func (v *modelVM) remove(gone ...*modelSnapshot) {
	v.snapshots = slices.DeleteFunc(v.snapshots, func(n *modelSnapshot) bool { return slices.Contains(gone, n) })
	climb := func(n *modelSnapshot) *modelSnapshot {
		for slices.Contains(gone, n) {
			n = n.parent
		}
		return n
	}
	for _, n := range v.snapshots {
		n.parent = climb(n.parent)
	}
	if v.hidden != nil {
		v.hidden.parent = climb(v.hidden.parent)
	}
	v.head = climb(v.head)
}

// affected are the present files that a revert replaces or takes away.
func (v *modelVM) affected(to *modelSnapshot, names []string, whole bool) (files []*modelFile) {
	for _, name := range v.fileNames() {
		f := v.files[name]
		_, excluded := to.excluded[name]
		excluded = excluded || slices.Contains(slices.Collect(maps.Values(to.excluded)), f.id)
		hit := whole && !excluded || slices.Contains(names, name)
		for _, n := range names {
			hit = hit || to.files[n].id == f.id
		}
		if hit {
			files = append(files, f)
		}
	}
	return files
}

// revert puts the named files of a snapshot in the place of affected ones. known finds the file that the store has.
func (v *modelVM) revert(to *modelSnapshot, names []string, affected []*modelFile, known func(name string) *File) {
	for _, f := range affected {
		v.unlink(f.name)
	}
	candidates := append(slices.Clone(affected), v.orphans...)
	for _, name := range names {
		e := to.files[name]
		f := newModelFile(known(name), name, e.state.clone())
		if i := slices.IndexFunc(candidates, func(c *modelFile) bool { return c.id == e.id }); i >= 0 {
			f.handles = candidates[i].handles
		}
		v.orphans = slices.DeleteFunc(v.orphans, func(o *modelFile) bool { return o.id == e.id })
		v.files[name] = f
	}
	v.head = to
}

// keepUndo is how many of the snapshots that reverts and commits kept stay without a policy.
const keepUndo = 3

// thin deletes the oldest of what reverts and commits kept, but for three, those in use, and the one that was shown last.
func (v *modelVM) thin(shown *modelSnapshot) {
	var kept []*modelSnapshot
	for _, n := range v.snapshots {
		if n.undo && n != shown {
			kept = append(kept, n)
		}
	}
	for ; len(kept) > keepUndo; kept = kept[1:] {
		if len(kept[0].open) == 0 {
			v.remove(kept[0])
		}
	}
}

// observe reads what a file of a store shows.
func observe(t tester, from fileReader, find func(int64, bool) (int64, error), a Attr) modelState {
	t.Helper()
	got := modelState{data: readAll(t, from, a.Size), held: make([]bool, (a.Size+blockSize-1)/blockSize), mode: a.Mode}
	for off := int64(0); ; {
		start, err := find(off, false)
		if Errno(err) == syscall.ENXIO {
			break
		}
		require.NoError(t, err)
		end, err := find(start, true)
		require.NoError(t, err)
		require.Greater(t, end, start)
		require.LessOrEqual(t, end, a.Size)
		for i := start / blockSize; i*blockSize < end; i++ {
			got.held[i] = true
		}
		if off = end; off == a.Size {
			break
		}
	}
	for i, held := range got.held {
		if !held {
			require.Equal(t, make([]byte, blockSize), got.block(int64(i)), "block %d is a hole with something in it", i)
		}
	}
	require.Equal(t, got.blocks(), a.Blocks, "st_blocks")
	return got
}

// requireState compares what a file shows with what it should.
func requireState(t tester, want, got modelState, what string, args ...any) {
	t.Helper()
	requireSame(t, want.data, got.data, what, args...)
	require.Equal(t, want.extents(), got.extents(), "extents of "+what, args)
	require.Equal(t, want.mode, got.mode, "mode of "+what, args)
}

// GoString keeps the log of a failed run readable.
func (v *modelVM) GoString() string { return v.name }

// GoString keeps the log of a failed run readable.
func (f *modelFile) GoString() string { return fmt.Sprintf("%s (file %d)", f.name, f.id) }

// GoString keeps the log of a failed run readable.
func (n *modelSnapshot) GoString() string { return n.name }
