package layer

// Random operations on a store and on the model at the same time, restarts and crashes included.

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/blockmap"
)

func TestModel(t *testing.T) {
	base := t.TempDir()
	var records uint64
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "run")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		stores := 0
		records += runMachine(t, filepath.Join(dir, "0"), func(t tester, s *Store) *Store {
			stores++
			again := kill(t, s, filepath.Join(dir, fmt.Sprint(stores)))
			require.NoError(t, os.RemoveAll(s.dir))
			return again
		})
	})
	requireJournaled(t, records)
	t.Logf("%d flushes to the journal", records)
}

// runMachine makes a store in dir and runs random operations on it. crash ends it as a crash does and opens it again. It
// returns how many flushes went to the journal.
func runMachine(t *rapid.T, dir string, crash func(tester, *Store) *Store) uint64 {
	m := &machine{crashStore: crash, limit: 40 * blockSize, longest: 10 * blockSize}
	if rapid.Bool().Draw(t, "large") {
		m.limit, m.longest = 3*blockmap.RegionSize, 3<<20
	}
	defer func(slots int) { journalSlots = slots }(journalSlots)
	journalSlots = rapid.SampledFrom([]int{80, 100, journalSlots}).Draw(t, "the ring's slots")
	var err error
	m.store, err = Open(dir, Options{
		MapMemory:    rapid.SampledFrom([]int64{0, 64 << 10}).Draw(t, "map memory"),
		MaxOpenFiles: rapid.SampledFrom([]int{0, 3}).Draw(t, "open files"),
	})
	require.NoError(t, err)
	defer func() { _ = m.store.Close() }()
	m.opened(t)
	for _, name := range []string{"db", "web"} {
		makeVM(t, m.store, name)
		m.vms = append(m.vms, newModelVM(name))
	}
	t.Repeat(m.actions())
	m.compareAll(t)
	m.leave()
	require.NoError(t, m.store.Close())
	requireSound(t, m.store.dir)
	return m.records
}

type machine struct {
	store      *Store
	vms        []*modelVM
	crashStore func(tester, *Store) *Store
	handle     Handle
	limit      int64 // of sizes
	longest    int   // of writes
	from       uint64
	records    uint64 // of the journal, but for those since this store was opened: they begin at from
}

// opened follows each start. At times guests go on before the journal can be used.
func (m *machine) opened(t *rapid.T) {
	m.from = m.store.journal.position()
	if rapid.IntRange(0, 3).Draw(t, "without the journal") > 0 {
		openJournal(t, m.store)
	}
}

func (m *machine) leave() { m.records += m.store.journal.position() - m.from }

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"write": m.write, "write again": m.write, "write more": m.write, "read": m.read, "zero": m.zero,
		"discard": m.discard, "allocate": m.allocate, "truncate": m.truncate, "flush": m.flush,
		"write and flush": m.writeAndFlush, "write and flush more": m.writeAndFlush, "write and flush again": m.writeAndFlush, "chmod": m.chmod,
		"create": m.create, "unlink": m.unlink, "rename": m.rename, "open": m.open, "close": m.close,
		"snapshot": m.snapshot, "delete snapshots": m.deleteSnapshots, "rename snapshot": m.renameSnapshot,
		"revert": m.revert, "open view": m.openView, "close views": m.closeViews,
		"preview": m.preview, "undo": m.undo, "commit": m.commit, "clone": m.clone, "destroy": m.destroy,
		"settle": m.settle, "reopen": m.reopen, "crash": m.crash,
		"take over": m.takeOver, "take over again": m.takeOver,
		"": m.compareFiles,
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
	m.leave()
	require.NoError(t, m.store.Close())
	requireSound(t, m.store.dir)
	o := m.store.opts
	o.Session = nil
	s, err := Open(m.store.dir, o)
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
	m.leave()
	m.restarted(t, m.crashStore(t, m.store))
	for _, v := range m.vms {
		for _, f := range v.files {
			got := observe(t, f.file, f.file.FindExtent, f.file.Attr())
			require.Equal(t, f.state.mode, got.mode)
			f.adopt(t, got)
		}
	}
	m.compareAll(t)
}

// takeOver has another worker go on: nothing is flushed, and nothing is lost, what is open stays so.
func (m *machine) takeOver(t *rapid.T) {
	m.leave()
	m.store = takeOver(t, m.store)
	defer m.opened(t)
	for _, v := range m.vms {
		vm := vmNamed(t, m.store, v.name)
		for name, f := range v.files {
			f.file = fileNamed(t, vm, name)
		}
		for _, f := range v.all() {
			f.file = m.store.files.Load(f.id)
			require.NotNil(t, f.file)
			require.Equal(t, f.handles, f.file.handles)
		}
	}
	m.compareAll(t)
}

// restarted forgets what does not survive a restart, and finds the files again.
func (m *machine) restarted(t *rapid.T, s *Store) {
	m.store = s
	defer m.opened(t)
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
			requireState(t, f.state, observe(t, f.file, f.file.FindExtent, f.file.Attr()), "%s/%s", v.name, f.name)
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
	require.ElementsMatch(t, slices.Collect(maps.Keys(want.excluded)), info.Excluded)
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
		requireState(t, e.state, observe(t, w, w.FindExtent, a), "%s@%s/%s", v.name, want.name, w.Name())
		w.Close(viewHandle)
	}
}
