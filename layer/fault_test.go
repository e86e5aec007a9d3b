package layer

// Everything that is asked of the host fails once: whatever it was, the operation says so and has done nothing, the
// next one works, and a restart finds all that was acknowledged.

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

// failure makes the n-th thing of a kind fail, while it is armed.
type failure struct {
	kind string
	n    int

	mu    sync.Mutex
	armed bool
	count int
	hit   bool
}

func (f *failure) ask(kind string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.armed || kind != f.kind {
		return nil
	}
	if f.count++; f.count != f.n {
		return nil
	}
	f.hit = true
	if f.n%2 == 0 && (kind == "write" || kind == "create" || kind == "allocate") {
		return syscall.ENOSPC
	}
	return syscall.EIO
}

// commit fails before the transaction is in the index, or after: nobody can know which.
func (f *failure) commit(commit func() error) error {
	err := f.ask("commit")
	if err != nil && f.n%2 == 1 {
		return err
	}
	return errors.Join(commit(), err)
}

// arm arms it or not, and says whether it has hit.
func (f *failure) arm(on bool) (hit bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = on
	return f.hit
}

// install puts the failure where the package asks for it; no store is open.
func (f *failure) install(t *testing.T) {
	fault, commitFault = f.ask, f.commit
	t.Cleanup(func() { fault, commitFault = nil, nil })
}

// faultStep is one operation, whole or not at all, of which everything is durable when it succeeds.
type faultStep struct {
	name string
	do   func(w *faultWorld) error
	torn bool // failed, it may have been done in part
}

// faultWorld is a store that steps work on.
type faultWorld struct {
	store *Store
	dir   string
}

func (w *faultWorld) vm(name string, do func(*VM) error) error {
	v, err := w.store.VM(name)
	if err != nil {
		return err
	}
	return do(v)
}

func (w *faultWorld) file(vm, name string, do func(*File) error) error {
	return w.vm(vm, func(v *VM) error {
		f, err := v.Lookup(name)
		if err != nil {
			return err
		}
		return errors.Join(do(f), f.Flush(false))
	})
}

func onVM(name, vm string, do func(*VM) error) faultStep {
	return faultStep{name: name, do: func(w *faultWorld) error { return w.vm(vm, do) }}
}

func onFile(name, file string, do func(*File) error) faultStep {
	return faultStep{name: name, do: func(w *faultWorld) error { return w.file("web", file, do) }}
}

func createStep(vm, file string) faultStep {
	return onVM("create "+file, vm, func(v *VM) error { _, _, err := v.Create(file, 0o644, 0, 0, true); return err })
}

func resizeStep(name string, blocks int64) faultStep {
	return onFile(name, "root", func(f *File) error {
		size := blocks*blockSize - 100
		_, err := f.SetAttr(SetAttr{Size: &size})
		return err
	})
}

func writeStep(file string, seed byte, block, n int) faultStep {
	return torn(onFile(fmt.Sprintf("write %d blocks of %s", n, file), file, func(f *File) error {
		_, err := f.Write(blocksOf(seed, n), int64(block)*blockSize, true)
		return err
	}))
}

func torn(step faultStep) faultStep {
	step.torn = true
	return step
}

func snapshotStep(name string) faultStep {
	return onVM("snapshot "+name, "web", func(v *VM) error {
		longAfterFlushes(v) // in memoryStep all is flushed ahead
		_, err := v.CreateSnapshot(CreateOptions{Name: name})
		return err
	})
}

func memoryStep(name string) faultStep {
	return torn(onVM("snapshot with memory "+name, "web", func(v *VM) error {
		if _, err := v.Snapshot(name); err == nil { // a crash left it, without
			if _, err := v.DeleteSnapshots([]string{name}); err != nil {
				return err
			}
		}
		i, err := v.store.NewImage(frameSize)
		if err != nil {
			return err
		}
		if _, err = i.File().Write(ram(frameSize + 5)); err == nil {
			_, err = v.CreateSnapshot(CreateOptions{Name: name, Image: i})
		}
		return errors.Join(err, i.Discard())
	}))
}

func deleteStep(names ...string) faultStep {
	return onVM("delete", "web", func(v *VM) error { _, err := v.DeleteSnapshots(names); return err })
}

// checksums makes them of all sealed layers.
func checksums(w *faultWorld) error {
	for _, l := range w.store.layersToSum() {
		if err := w.store.sumLayer(l); err != nil {
			return err
		}
	}
	return nil
}

// sumsByHand has stores make no checksums of their own accord.
func sumsByHand(t *testing.T) {
	every := sumsEvery
	sumsEvery = time.Hour
	t.Cleanup(func() { sumsEvery = every })
}

func remount(w *faultWorld) error {
	err := w.store.Close()
	again, openErr := Open(w.dir, w.store.opts)
	if openErr == nil {
		w.store = again
	}
	return errors.Join(err, openErr)
}

func faultSteps() []faultStep {
	return []faultStep{
		{name: "create VM", do: func(w *faultWorld) error { _, err := w.store.CreateVM("web", 0o755, 0, 0); return err }},
		createStep("web", "root"),
		createStep("web", "data"),
		resizeStep("grow", 40),
		writeStep("root", 1, 2, 8),
		writeStep("data", 2, 0, 3),
		snapshotStep("a"),
		writeStep("root", 3, 4, 2),
		onFile("write a part of a block", "root", func(f *File) error {
			_, err := f.Write([]byte("part"), 7*blockSize+10, true)
			return err
		}),
		onFile("discard", "root", func(f *File) error { return f.Discard(2*blockSize, 3*blockSize) }),
		onFile("allocate", "root", func(f *File) error { return f.Allocate(20*blockSize, 4*blockSize, true) }),
		snapshotStep("b"),
		torn(resizeStep("shrink", 6)), // a crash may leave the end of the last block zeroed

		resizeStep("grow again", 20),
		memoryStep("m"),
		{name: "checksums", do: checksums},
		{name: "backup", do: func(w *faultWorld) error { return w.store.backUp(time.Now()) }},
		onVM("rename file", "web", func(v *VM) error { return v.Rename("data", "disk", 0) }),
		{name: "remount", do: remount},
		onFile("read", "root", func(f *File) error { _, err := f.Read(make([]byte, 20*blockSize), 0); return err }),
		onVM("preview", "web", func(v *VM) error { _, err := v.Preview(PreviewOptions{Name: "a"}); return err }),
		writeStep("root", 4, 1, 2),
		onVM("undo", "web", func(v *VM) error { _, err := v.Undo(false); return err }),
		onVM("preview again", "web", func(v *VM) error { _, err := v.Preview(PreviewOptions{Name: "b"}); return err }),
		onVM("commit", "web", func(v *VM) error { _, err := v.CommitPreview(); return err }),
		onVM("revert", "web", func(v *VM) error { _, err := v.Revert(RevertOptions{Name: "a"}); return err }),
		onVM("clone", "web", func(v *VM) error { _, err := v.Clone("b", "copy"); return err }),
		onVM("set a policy", "web", func(v *VM) error { p := v.Policy(); p.Keep.Undo = 1; return v.SetPolicy(p) }),
		onVM("rename snapshot", "web", func(v *VM) error { _, err := v.RenameSnapshot("a", "first"); return err }),
		deleteStep("b"),
		{name: "import", do: func(w *faultWorld) error {
			return w.file("copy", "root", func(f *File) error {
				_, err := f.Write(pattern(9, 300*blockSize), 0, true)
				return err
			})
		}, torn: true},
		onVM("unlink", "copy", func(v *VM) error { return v.Unlink("root") }),
		deleteStep("first", "m"),
		{name: "rename VM", do: func(w *faultWorld) error { return w.store.RenameVM("copy", "other", true) }},
		{name: "remount again", do: remount},
	}
}

var timesInNames = regexp.MustCompile(`\d{8}T\d{6}Z`)

// seenOf is all that can be seen of a store.
func seenOf(t tester, s *Store) (seen []string) {
	t.Helper()
	add := func(format string, args ...any) {
		seen = append(seen, timesInNames.ReplaceAllString(fmt.Sprintf(format, args...), "TIME"))
	}
	for _, v := range s.VMs() {
		status := v.Status()
		add("VM %s keeps %d, previews %v", v.Name(), v.Policy().Keep.Undo, status.Preview != nil)
		for _, e := range v.Files() {
			p := content(t, e.File)
			add("  %s: %d bytes %x, allocated %d", e.Name, len(p), sha256.Sum256(p), e.File.Attr().Blocks)
		}
		for _, n := range v.Snapshots() {
			info := n.Info()
			parent := "nothing"
			if info.Parent != nil {
				parent = *info.Parent
			}
			add("  snapshot %s of %s, %s, now %v", info.Name, parent, info.State, info.Head)
			if m, err := n.Memory(); err == nil {
				p := make([]byte, *info.Memory+1)
				size, err := m.Read(p, 0)
				require.NoError(t, err)
				add("    memory: %d bytes %x", size, sha256.Sum256(p))
			}
			for _, file := range info.Files {
				p := viewed(t, v, info.Name, file.Name)
				add("    %s: %d bytes %x, allocated %d", file.Name, len(p), sha256.Sum256(p), file.Allocated)
			}
		}
	}
	return seen
}

// faultRun runs the steps with one failure, and says whether it came to that. states are what is seen after each step.
func faultRun(t *testing.T, f *failure, states [][]string) bool {
	base := t.TempDir()
	w := &faultWorld{dir: filepath.Join(base, "store")}
	defer func() {
		if w.store != nil {
			_ = w.store.Close()
		}
	}()
	options := Options{Reserve: Reserve{Bytes: 1 << 20}, Verify: true}
	f.arm(true)
	var err error
	w.store, err = Open(w.dir, options)
	if f.arm(false) && err != nil {
		requireEIO(t, err)
		w.store, err = Open(w.dir, options)
	}
	require.NoError(t, err)
	for i, step := range faultSteps() {
		before := f.arm(true)
		err := step.do(w)
		if err == nil {
			rest(t, w.store)
		}
		hit := f.arm(false) && !before
		if err == nil && !broken(w.store) {
			if hit || i == len(states)-1 {
				require.Equal(t, states[i], seenOf(t, w.store), "after %q", step.name)
			}
			continue
		}
		require.True(t, hit, "%q: %v", step.name, err)
		if err != nil {
			requireEIO(t, err)
		}
		f.recover(t, w, step, i, states)
	}
	require.NoError(t, w.store.Close())
	requireSound(t, w.dir)
	return f.hit
}

// recover goes on after a step that failed.
func (f *failure) recover(t *testing.T, w *faultWorld, step faultStep, i int, states [][]string) {
	t.Helper()
	was, done := []string(nil), states[i]
	if i > 0 {
		was = states[i-1]
	}
	if !broken(w.store) {
		if !step.torn {
			require.Equal(t, was, seenOf(t, w.store), "after a failed %q", step.name)
		}
	} else {
		f.restart(t, w)
		now := seenOf(t, w.store)
		if !step.torn {
			require.Contains(t, [][]string{was, done}, now, "after a failed %q and a restart", step.name)
		}
		if slices.Equal(now, done) && !slices.Equal(was, done) {
			return
		}
	}
	require.NoError(t, step.do(w), "%q, again", step.name)
	rest(t, w.store)
	require.Equal(t, done, seenOf(t, w.store), "after %q, again", step.name)
}

// restart is what follows when a store takes no more: the process ends, and another one opens what is there.
func (f *failure) restart(t *testing.T, w *faultWorld) {
	t.Helper()
	from := w.dir
	w.dir += "+"
	if !closed(w.store) {
		w.store = kill(t, w.store, w.dir)
	} else { // on a failed Close the index may be left open
		copyStore(t, from, w.dir)
		w.store = openStore(t, w.dir, w.store.opts)
	}
	rest(t, w.store)
}

// rest waits until nothing goes on in the background.
func rest(t tester, s *Store) {
	t.Helper()
	for _, v := range s.VMs() {
		for _, e := range v.Files() {
			e.File.awaitVoid()
		}
	}
	settle(t, s)
}

func requireEIO(t *testing.T, err error) {
	t.Helper()
	require.Contains(t, []syscall.Errno{syscall.EIO, syscall.ENOSPC}, Errno(err), "%v", err)
}

func closed(s *Store) bool {
	return errors.Is(s.index.View(func(*blockmap.Tx) error { return nil }), blockmap.ErrClosed)
}

// broken says whether a commit failed, so that nothing may follow, or a sync, so that no flush of that layer may succeed.
func broken(s *Store) bool {
	if err := s.index.Update(func(*blockmap.Tx) error { return nil }); err != nil {
		return true
	}
	for _, v := range s.VMs() {
		for _, e := range v.Files() {
			if e.File.state.Load().head.writer().failed.Load() {
				return true
			}
		}
	}
	return false
}

var every = flag.Bool("every", false, "have the n-th thing of each kind fail for every n, not for one in three")

// eachNth has the 1st, 2nd, 3rd … of a row fail, up to the first that is not there, and says how many were. Some are left
// out, others in each run; under the race detector, which has seen all of it then, all but one.
func eachNth(run func(n int) (hit bool)) (hits int) {
	if testing.Short() {
		if run(1+rand.IntN(6)) || run(1) {
			return 1
		}
		return 0
	}
	for n := 1; run(n); hits++ {
		if n++; !*every {
			n += rand.IntN(9)
		}
	}
	return hits
}

func TestEveryFailure(t *testing.T) {
	sumsByHand(t)
	// What is seen after each step, where nothing fails.
	var states [][]string
	w := &faultWorld{dir: filepath.Join(t.TempDir(), "store")}
	w.store = openStore(t, w.dir, Options{})
	for _, step := range faultSteps() {
		require.NoError(t, step.do(w), step.name)
		rest(t, w.store)
		states = append(states, seenOf(t, w.store))
	}
	require.NoError(t, w.store.Close())
	for _, kind := range []string{
		"read", "write", "sync", "punch", "cut", "allocate", "open", "create", "unlink", "mkdir", "rename", "readdir", "statfs",
		"stat", "view",
		"commit",
	} {
		t.Run(kind, func(t *testing.T) {
			hits := eachNth(func(n int) bool {
				f := &failure{kind: kind, n: n}
				f.install(t)
				return faultRun(t, f, states)
			})
			require.NotZero(t, hits, "nothing of the kind was ever asked for")
			t.Logf("%d failures", hits)
		})
	}
}
