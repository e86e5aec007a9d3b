package layer

// What random operations do to files.

import (
	"math/rand/v2"
	"slices"
	"syscall"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/blockmap"
)

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
	got, err := f.file.Read(p, off)
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

// writeAndFlush is what the journal is for: a little, within the file, again and again, mostly where nothing was flushed yet.
func (m *machine) writeAndFlush(t *rapid.T) {
	_, f := m.file(t)
	if f.state.size() < m.limit/2 { // most of it holes
		n := rapid.Int64Range(m.limit/2, m.limit).Draw(t, "size")
		require.NoError(t, f.file.Zero(0, n, false))
		f.zero(0, n, false)
	}
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "which"), 0)) // what rapid draws is mostly small
	for range rapid.SampledFrom([]int{20, 40, 5, 1}).Draw(t, "times") {
		off := r.Int64N(f.state.size())
		n := 1 + r.Int64N(min(3*blockSize, f.state.size()-off))
		p := pattern(r.Uint64(), int(n))
		write(t, f.file, p, off)
		f.write(p, off)
		require.NoError(t, f.file.Flush(true))
		f.flushed()
	}
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
