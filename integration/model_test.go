package integration

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The model is what a mount should show, in plain memory. It also knows what may
// be seen after a crash: what was flushed must be there, what came later may be,
// block by block.

const modelBlock = 4096

type modelFile struct {
	data []byte
	// past holds, for blocks changed since the last flush, what they held at
	// that flush and between; sizes likewise. A crash may bring any of it back.
	past  map[int][][]byte
	sizes []int
}

func newModelFile(data []byte) *modelFile {
	return &modelFile{data: data, past: map[int][][]byte{}}
}

// block is block b of data, with zeros beyond its end.
func block(data []byte, b int) []byte {
	out := make([]byte, modelBlock)
	if at := b * modelBlock; at < len(data) {
		copy(out, data[at:])
	}
	return out
}

// change lets edit alter the bytes from off to end, within the file's size or,
// if the range is longer, extending it.
func (f *modelFile) change(off, end int, edit func(part []byte)) {
	for b := off / modelBlock; b*modelBlock < end; b++ {
		f.past[b] = append(f.past[b], block(f.data, b))
	}
	if end > len(f.data) {
		f.sizes = append(f.sizes, len(f.data))
		f.data = append(f.data, make([]byte, end-len(f.data))...)
	}
	edit(f.data[off:end])
}

func (f *modelFile) write(off int, b []byte) {
	f.change(off, off+len(b), func(part []byte) { copy(part, b) })
}

// zero is what punching a hole, or zeroing a range within the size, does.
func (f *modelFile) zero(off, end int) {
	if end = min(end, len(f.data)); off < end {
		f.change(off, end, func(part []byte) { clear(part) })
	}
}

// extend makes the file at least so large.
func (f *modelFile) extend(size int) {
	if size > len(f.data) {
		f.change(size, size, func([]byte) {})
	}
}

// truncate sets the size, for good once it has returned: of what is cut off
// nothing may ever come back.
func (f *modelFile) truncate(size int) {
	if size < len(f.data) {
		f.data = f.data[:size:size]
		maps.DeleteFunc(f.past, func(b int, _ [][]byte) bool { return b*modelBlock >= size })
		for _, old := range f.past[size/modelBlock] {
			clear(old[size%modelBlock:])
		}
	} else {
		f.data = append(f.data, make([]byte, size-len(f.data))...)
	}
	f.sizes = nil
}

// flushed is called when an fsync has returned.
func (f *modelFile) flushed() {
	f.past, f.sizes = map[int][][]byte{}, nil
}

// written is called when a synchronous write of [off, end) has returned.
func (f *modelFile) written(off, end int) {
	for b := off / modelBlock; b*modelBlock < end; b++ {
		delete(f.past, b)
	}
	f.sizes = slices.DeleteFunc(f.sizes, func(size int) bool { return size < end })
}

// crash compares what is there after a crash with what may be there, and from
// then on expects exactly that.
func (f *modelFile) crash(got []byte) error {
	if err := f.admits(got); err != nil {
		return err
	}
	f.data = got
	f.flushed()
	return nil
}

// admits says what of that which is there after a crash may not be there.
func (f *modelFile) admits(got []byte) error {
	if len(got) != len(f.data) && !slices.Contains(f.sizes, len(got)) {
		return fmt.Errorf("size %d after a crash, not %d or one of %v", len(got), len(f.data), f.sizes)
	}
	for b := 0; b*modelBlock < len(got); b++ {
		have := block(got, b)
		candidates := append(slices.Clip(f.past[b]), block(f.data, b))
		if !slices.ContainsFunc(candidates, func(c []byte) bool {
			c = bytes.Clone(c)
			clear(c[min(modelBlock, len(got)-b*modelBlock):])
			return bytes.Equal(c, have)
		}) {
			return fmt.Errorf("block %d after a crash holds what it never held since the last flush (%d states)", b, len(candidates))
		}
	}
	return nil
}

// clone is a file of its own with the same past.
func (f *modelFile) clone() *modelFile {
	c := &modelFile{data: bytes.Clone(f.data), past: map[int][][]byte{}, sizes: slices.Clone(f.sizes)}
	for b, states := range f.past {
		for _, state := range states {
			c.past[b] = append(c.past[b], bytes.Clone(state))
		}
	}
	return c
}

// over adds what a file was before its last change, which is not done yet.
func (f *modelFile) over(before *modelFile) {
	for b, states := range before.past {
		f.past[b] = append(f.past[b], states...)
	}
	for b := 0; b*modelBlock < max(len(f.data), len(before.data)); b++ {
		if old := block(before.data, b); !bytes.Equal(old, block(f.data, b)) {
			f.past[b] = append(f.past[b], old)
		}
	}
	f.sizes = append(append(f.sizes, before.sizes...), len(before.data))
}

// shrinking adds what the last block may hold while all from size on is about to
// be cut off.
func (f *modelFile) shrinking(size int) {
	b := size / modelBlock
	for _, state := range append(slices.Clip(f.past[b]), block(f.data, b)) {
		state = bytes.Clone(state)
		clear(state[size%modelBlock:])
		f.past[b] = append(f.past[b], state)
	}
}

type modelSnapshot struct {
	name, parent string
	files        map[string][]byte
}

type modelVM struct {
	files     map[string]*modelFile
	snapshots []*modelSnapshot // oldest first
	head      string           // the snapshot that the current state grew from
	hidden    *modelSnapshot   // during a preview: what the state was before
}

func newModelVM() *modelVM { return &modelVM{files: map[string]*modelFile{}} }

// clone is a copy that further changes leave alone.
func (v *modelVM) clone() *modelVM {
	c := &modelVM{files: map[string]*modelFile{}, head: v.head}
	for name, f := range v.files {
		c.files[name] = f.clone()
	}
	for _, s := range v.snapshots {
		s := *s // names and parents change, contents don't
		c.snapshots = append(c.snapshots, &s)
	}
	if v.hidden != nil {
		hidden := *v.hidden
		c.hidden = &hidden
	}
	return c
}

// over is the state amid a change of files' contents.
func (v *modelVM) over(before *modelVM) *modelVM {
	c := v.clone()
	for name, f := range c.files {
		f.over(before.files[name])
	}
	return c
}

// shrinking is the state before some file is as small as in another one.
func (v *modelVM) shrinking(after *modelVM) *modelVM {
	c := v.clone()
	for name, f := range c.files {
		if size := len(after.files[name].data); size < len(f.data) {
			f.shrinking(size)
		}
	}
	return c
}

func (v *modelVM) find(name string) *modelSnapshot {
	i := slices.IndexFunc(v.snapshots, func(s *modelSnapshot) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return v.snapshots[i]
}

// seal takes the current state, which is thereby flushed.
func (v *modelVM) seal(name string) *modelSnapshot {
	s := &modelSnapshot{name: name, parent: v.head, files: map[string][]byte{}}
	for n, f := range v.files {
		s.files[n] = bytes.Clone(f.data)
		f.flushed()
	}
	return s
}

func (v *modelVM) snapshot(name string) {
	v.snapshots = append(v.snapshots, v.seal(name))
	v.head = name
}

// show makes the files those of a snapshot.
func (v *modelVM) show(s *modelSnapshot, head string) {
	v.files = map[string]*modelFile{}
	for n, data := range s.files {
		v.files[n] = newModelFile(bytes.Clone(data))
	}
	v.head = head
}

func (v *modelVM) delete(name string) {
	gone := v.find(name)
	for _, s := range v.grown() {
		if s.parent == name {
			s.parent = gone.parent
		}
	}
	if v.head == name {
		v.head = gone.parent
	}
	v.snapshots = slices.DeleteFunc(v.snapshots, func(s *modelSnapshot) bool { return s == gone })
}

// grown are the snapshots, the hidden one included.
func (v *modelVM) grown() []*modelSnapshot {
	if v.hidden == nil {
		return v.snapshots
	}
	return append(slices.Clone(v.snapshots), v.hidden)
}

func (v *modelVM) rename(from, to string) {
	v.find(from).name = to
	for _, s := range v.grown() {
		if s.parent == from {
			s.parent = to
		}
	}
	if v.head == from {
		v.head = to
	}
}

// undoKept is how many of the states that reverts and commits leave behind stay.
const undoKept = 3

// revert brings a snapshot's files back; kept is the name under which the state
// left behind stays, if it does.
func (v *modelVM) revert(name, kept string) {
	target := v.find(name)
	if kept != "" {
		v.snapshot(kept)
	}
	v.show(target, name)
	v.thin()
}

// preview shows a snapshot, for the time being.
func (v *modelVM) preview(name string) {
	v.hidden = v.seal("")
	v.show(v.find(name), name)
}

// undo ends a preview; nothing of it stays.
func (v *modelVM) undo() {
	v.show(v.hidden, v.hidden.parent)
	v.hidden = nil
}

// commit ends a preview, and stays with what it shows.
func (v *modelVM) commit(kept string) {
	v.hidden.name = kept
	v.snapshots = append(v.snapshots, v.hidden)
	v.hidden = nil
	v.thin()
}

// thin deletes the oldest of what reverts and commits left behind, but not what
// the VM was just taken to.
func (v *modelVM) thin() {
	var before []string
	for _, s := range v.snapshots {
		if strings.HasPrefix(s.name, "before-") && s.name != v.head {
			before = append(before, s.name)
		}
	}
	for _, old := range before[:max(0, len(before)-undoKept)] {
		v.delete(old)
	}
}
