package integration

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var (
	randomSeed  = flag.Uint64("seed", 0, "what TestRandom does; 0 takes the clock's word")
	randomSteps = flag.Int("steps", 2000, "how much TestRandom does")
)

// TestRandom does one thing after another that an operator, a guest or a crash
// may do, and compares the mount with a model in memory.
func TestRandom(t *testing.T) {
	m := newMount(t)
	doRandomly(t, m, *randomSteps, m.kill)
}

// TestRandomPowerLoss is the same, but a crash takes all of the host along.
func TestRandomPowerLoss(t *testing.T) {
	h := newHost(t, 1<<30)
	m := h.newMount("--reserve=64MiB")
	doRandomly(t, m, *randomSteps/4, func() { h.powerLoss(m) })
}

func doRandomly(t *testing.T, m *mount, steps int, crash func()) {
	r := newRandom(t, m, crash)
	for i := range steps {
		r.step(i)
	}
	r.verify()
	r.m.remount()
	r.verify()
}

// newRandom starts with two VMs. Nothing crashes if crash is nil.
func newRandom(t *testing.T, m *mount, crash func()) *random {
	r := &random{T: t, rng: newRand(t), m: m, lose: crash, vms: map[string]*modelVM{}}
	for _, name := range []string{"vm0", "vm1"} {
		r.m.vm(name)
		r.vms[name] = newModelVM()
	}
	return r
}

// newRand is a source of what a test does at random, the same with the same -seed.
func newRand(t *testing.T) *rand.Rand {
	seed := *randomSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("again with: go test ./integration -run='%s$' -steps=%d -seed=%d", t.Name(), *randomSteps, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

type random struct {
	*testing.T
	rng   *rand.Rand
	m     *mount
	lose  func() // crashes, if not nil; the mount is gone then
	vms   map[string]*modelVM
	count int // of names given

	vm, file string // in use; mostly the next request goes there again
	what     string // the last step was
}

func (r *random) step(i int) {
	if i == 0 || r.rng.IntN(8) == 0 {
		r.vm = pick(r.rng, r.vms)
	}
	name, vm := r.vm, r.vms[r.vm]
	steps := []struct {
		weight int
		what   string
		do     func(dir string, vm *modelVM) string
	}{
		{24, "write", r.write}, {4, "write synchronously", r.writeSync}, {6, "punch", r.punch}, {4, "zero", r.zeroRange},
		{3, "allocate", r.allocate}, {8, "truncate", r.truncate}, {8, "fsync", r.fsync}, {10, "read", r.read},
		{4, "create file", r.createFile}, {2, "unlink", r.unlink}, {2, "rename file", r.renameFile},
		{9, "snapshot", r.snapshot}, {6, "delete", r.delete}, {2, "rename", r.rename}, {5, "revert", r.revert},
		{4, "preview", r.preview}, {3, "undo", r.undo}, {2, "commit", r.commit}, {1, "clone", r.clone}, {1, "destroy", r.destroy}, {6, "browse", r.browse},
		{1, "remount", r.remount}, {1, "crash", r.crash}, {2, "crash amid", r.crashAmid},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := r.rng.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			r.what = s.what
			r.Logf("%d: %s: %s %s", i, name, s.what, s.do(r.m.path(name), vm))
			return
		}
	}
}

// pick chooses a key at random, and the same with the same seed.
func pick[V any](rng *rand.Rand, from map[string]V) string {
	keys := slices.Sorted(maps.Keys(from))
	if len(keys) == 0 {
		return ""
	}
	return keys[rng.IntN(len(keys))]
}

// span is where a request goes in a file: small or large, aligned or not.
func (r *random) span(f *modelFile) (off, n int) {
	off, n = r.rng.IntN(len(f.data)+10_000), 1+r.rng.IntN([]int{100, 5000, 200_000}[r.rng.IntN(3)])
	if r.rng.IntN(2) == 0 {
		off, n = off&^(modelBlock-1), (n+modelBlock-1)&^(modelBlock-1)
	}
	return off, n
}

const maxModelFile = 5 << 20 // more than a region of the index

// onFile opens a file at random for writing, if there is one.
func (r *random) onFile(dir string, vm *modelVM, flags int, do func(f *os.File, m *modelFile) string) string {
	if vm.files[r.file] == nil || r.rng.IntN(8) == 0 {
		r.file = pick(r.rng, vm.files)
	}
	name := r.file
	if name == "" {
		return "nothing"
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|flags, 0)
	require.NoError(r, err)
	defer f.Close()
	return name + " " + do(f, vm.files[name])
}

func (r *random) writeTo(f *os.File, m *modelFile) (off, end int) {
	off, n := r.span(m)
	if off+n > maxModelFile {
		off = 0
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32() | 1)
	}
	writeAt(r, f, b, int64(off))
	m.write(off, b)
	return off, off + n
}

func (r *random) write(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, end := r.writeTo(f, m)
		return fmt.Sprint(off, "–", end)
	})
}

func (r *random) writeSync(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, unix.O_DSYNC, func(f *os.File, m *modelFile) string {
		off, end := r.writeTo(f, m)
		m.written(off, end)
		return fmt.Sprint(off, "–", end)
	})
}

func (r *random) punch(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		require.NoError(r, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)))
		m.zero(off, off+n)
		return fmt.Sprint(off, "–", off+n)
	})
}

func (r *random) zeroRange(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		keep := off+n > maxModelFile || r.rng.IntN(2) == 0
		mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
		if keep {
			mode |= unix.FALLOC_FL_KEEP_SIZE
		}
		require.NoError(r, unix.Fallocate(int(f.Fd()), mode, int64(off), int64(n)))
		m.zero(off, off+n)
		if !keep {
			m.extend(off + n)
		}
		return fmt.Sprint(off, "–", off+n, " keeping the size: ", keep)
	})
}

func (r *random) allocate(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		if off+n > maxModelFile {
			off = 0
		}
		require.NoError(r, unix.Fallocate(int(f.Fd()), 0, int64(off), int64(n)))
		m.extend(off + n)
		return fmt.Sprint(off, "–", off+n)
	})
}

func (r *random) truncate(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		size := r.rng.IntN([]int{1, len(m.data) + 1, min(maxModelFile, len(m.data)*2+20_000)}[r.rng.IntN(3)])
		require.NoError(r, f.Truncate(int64(size)))
		m.truncate(size)
		return fmt.Sprint("to ", size)
	})
}

func (r *random) fsync(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		require.NoError(r, f.Sync())
		m.flushed()
		return ""
	})
}

func (r *random) read(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		b := make([]byte, n)
		got, err := unix.Pread(int(f.Fd()), b, int64(off))
		require.NoError(r, err)
		want := m.data[min(off, len(m.data)):min(off+n, len(m.data))]
		require.True(r, bytes.Equal(want, b[:got]), "%s differs between %d and %d", f.Name(), off, off+n)
		return fmt.Sprint(off, "–", off+n)
	})
}

func (r *random) createFile(dir string, vm *modelVM) string {
	if len(vm.files) >= 4 {
		return "nothing"
	}
	r.count++
	name := fmt.Sprint("file", r.count)
	writeFile(r, filepath.Join(dir, name), nil)
	vm.files[name] = newModelFile(nil)
	return name
}

func (r *random) unlink(dir string, vm *modelVM) string {
	name := pick(r.rng, vm.files)
	if name == "" {
		return "nothing"
	}
	require.NoError(r, os.Remove(filepath.Join(dir, name)))
	delete(vm.files, name)
	return name
}

func (r *random) renameFile(dir string, vm *modelVM) string {
	from, to := pick(r.rng, vm.files), pick(r.rng, vm.files)
	if from == "" {
		return "nothing"
	}
	if r.rng.IntN(2) == 0 {
		r.count++
		to = fmt.Sprint("file", r.count)
	}
	require.NoError(r, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
	if from != to {
		vm.files[to] = vm.files[from]
		delete(vm.files, from)
	}
	return from + " to " + to
}

func (r *random) pickSnapshot(vm *modelVM) string {
	if len(vm.snapshots) == 0 {
		return ""
	}
	return vm.snapshots[r.rng.IntN(len(vm.snapshots))].name
}

func (r *random) snapshot(dir string, vm *modelVM) string {
	if len(vm.snapshots) >= 12 {
		return r.delete(dir, vm)
	}
	r.count++
	name := fmt.Sprint("s", r.count)
	if vm.hidden != nil {
		failCommand(r, syscall.EBUSY, dir, "create", name)
		return "refused during a preview"
	}
	mustCommand(r, dir, "create", name)
	vm.snapshot(name)
	return name
}

func (r *random) delete(dir string, vm *modelVM) string {
	name := r.pickSnapshot(vm)
	if name == "" {
		return "nothing"
	}
	if vm.hidden != nil && vm.head == name {
		failCommand(r, syscall.EBUSY, dir, "delete", name)
		return name + " refused, for it is previewed"
	}
	mustCommand(r, dir, "delete", name)
	vm.delete(name)
	return name
}

func (r *random) rename(dir string, vm *modelVM) string {
	from := r.pickSnapshot(vm)
	if from == "" {
		return "nothing"
	}
	r.count++
	to := fmt.Sprint("s", r.count)
	mustCommand(r, dir, "rename", from+" "+to)
	vm.rename(from, to)
	return from + " to " + to
}

func (r *random) revert(dir string, vm *modelVM) string {
	name := r.pickSnapshot(vm)
	if name == "" {
		return "nothing"
	}
	if vm.hidden != nil {
		failCommand(r, syscall.EBUSY, dir, "revert", name)
		return "refused during a preview"
	}
	if r.rng.IntN(2) == 0 {
		mustCommand(r, dir, "revert", name+" discard=true")
		vm.revert(name, "")
		return name + " discarding"
	}
	mustCommand(r, dir, "revert", name)
	kept := r.newest(dir)
	require.True(r, strings.HasPrefix(kept, "before-revert-"), kept)
	vm.revert(name, kept)
	return name + " keeping " + kept
}

func (r *random) preview(dir string, vm *modelVM) string {
	name := r.pickSnapshot(vm)
	if name == "" {
		return "nothing"
	}
	if vm.hidden != nil {
		failCommand(r, syscall.EBUSY, dir, "preview", name)
		return "refused during another"
	}
	mustCommand(r, dir, "preview", name)
	vm.preview(name)
	return name
}

func (r *random) undo(dir string, vm *modelVM) string {
	if vm.hidden == nil {
		failCommand(r, syscall.EINVAL, dir, "undo", "\n")
		return "refused, for there is no preview"
	}
	mustCommand(r, dir, "undo", "\n")
	vm.undo()
	return ""
}

func (r *random) commit(dir string, vm *modelVM) string {
	if vm.hidden == nil {
		failCommand(r, syscall.EINVAL, dir, "commit", "\n")
		return "refused, for there is no preview"
	}
	mustCommand(r, dir, "commit", "\n")
	kept := r.newest(dir)
	require.True(r, strings.HasPrefix(kept, "before-commit-"), kept)
	vm.commit(kept)
	return "keeping " + kept
}

func (r *random) clone(dir string, vm *modelVM) string {
	name := r.pickSnapshot(vm)
	if name == "" || len(r.vms) >= 4 {
		return "nothing"
	}
	r.count++
	clone := fmt.Sprint("vm", r.count)
	mustCommand(r, dir, "clone", name+" to="+clone)
	r.vms[clone] = newModelVM()
	r.vms[clone].show(vm.find(name), "")
	return name + " to " + clone
}

func (r *random) destroy(dir string, vm *modelVM) string {
	if len(r.vms) < 3 || vm.hidden != nil {
		return "nothing"
	}
	mustSnapfs(r, "destroy", dir, "--yes")
	delete(r.vms, r.vm)
	r.vm = pick(r.rng, r.vms)
	return ""
}

func (r *random) newest(dir string) string {
	all := snapshotNames(r, dir)
	require.NotEmpty(r, all)
	return all[len(all)-1]
}

func (r *random) browse(dir string, vm *modelVM) string {
	name := r.pickSnapshot(vm)
	if name == "" {
		return "nothing"
	}
	r.verifySnapshot(dir, vm.find(name))
	return name
}

func (r *random) remount(string, *modelVM) string {
	r.m.remount()
	r.verify()
	return ""
}

func (r *random) crash(string, *modelVM) string {
	if r.lose == nil {
		return "nothing"
	}
	r.lose()
	r.m.start()
	r.reconcile()
	return ""
}

// crashAmid has the crash come while the daemon does what a command asks for: all
// of that must have happened, or nothing.
func (r *random) crashAmid(dir string, vm *modelVM) string {
	if r.lose == nil {
		return "nothing"
	}
	control, line := r.pickCommand(vm)
	f, err := os.OpenFile(snapshotPath(dir, control), os.O_WRONLY, 0)
	require.NoError(r, err)
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteString(line + "\n")
		done <- err
	}()
	time.Sleep(time.Duration(r.rng.IntN(8000)) * time.Microsecond)
	r.lose()
	answered := <-done == nil
	f.Close() // the daemon is dead; there is nobody to tell
	r.m.start()
	happened := r.happened(dir, vm, control, line)
	require.True(r, happened || !answered, "%s %s was answered, and is forgotten", control, line)
	if happened {
		r.adopt(dir, vm, control, line)
	}
	r.reconcile()
	return fmt.Sprint(control, " ", line, " happened: ", happened)
}

// pickCommand chooses one that would succeed.
func (r *random) pickCommand(vm *modelVM) (control, line string) {
	if vm.hidden != nil {
		return []string{"undo", "commit"}[r.rng.IntN(2)], ""
	}
	if name := r.pickSnapshot(vm); name != "" && r.rng.IntN(4) > 0 {
		return []string{"delete", "revert", "preview"}[r.rng.IntN(3)], name
	}
	r.count++
	return "create", fmt.Sprint("s", r.count)
}

// happened finds out whether a command was carried out.
func (r *random) happened(dir string, vm *modelVM, control, line string) bool {
	now := snapshotNames(r, dir)
	switch control {
	case "create":
		return slices.Contains(now, line)
	case "delete":
		return !slices.Contains(now, line)
	case "revert":
		return len(now) > 0 && vm.find(now[len(now)-1]) == nil
	case "preview":
		return previews(r, dir) != ""
	default: // undo, commit
		return previews(r, dir) == ""
	}
}

// previews is the snapshot under preview, if there is one.
func previews(t testing.TB, dir string) string {
	var status struct{ Preview string }
	require.NoError(t, json.Unmarshal(readFile(t, snapshotPath(dir, "status")), &status))
	return status.Preview
}

// adopt has the model do what the daemon had done when it crashed. Of what a
// revert or a commit does at its end, to delete the oldest of the states left
// behind, it may not have got to that.
func (r *random) adopt(dir string, vm *modelVM, control, line string) {
	switch control {
	case "create":
		vm.snapshot(line)
	case "delete":
		vm.delete(line)
	case "revert":
		vm.revert(line, r.newest(dir))
	case "preview":
		vm.preview(line)
	case "undo":
		vm.undo()
	case "commit":
		vm.commit(r.newest(dir))
	}
	for _, name := range snapshotNames(r, dir) {
		if vm.find(name) == nil {
			mustCommand(r, dir, "delete", name)
		}
	}
}

// reconcile takes stock after a crash.
func (r *random) reconcile() {
	for name, vm := range r.vms {
		dir := r.m.path(name)
		require.Equal(r, slices.Sorted(maps.Keys(vm.files)), slices.Sorted(slices.Values(names(r, dir))))
		for n, f := range vm.files {
			require.NoError(r, f.crash(readFile(r, filepath.Join(dir, n))), "%s/%s", name, n)
		}
	}
	r.verify()
}

// verify compares everything.
func (r *random) verify() {
	require.ElementsMatch(r, slices.Collect(maps.Keys(r.vms)), names(r, r.m.dir))
	for name, vm := range r.vms {
		dir := r.m.path(name)
		require.ElementsMatch(r, slices.Collect(maps.Keys(vm.files)), names(r, dir))
		for n, f := range vm.files {
			requireContent(r, f.data, filepath.Join(dir, n))
		}
		now := list(r, dir)
		require.Len(r, now, len(vm.snapshots))
		require.Equal(r, vm.hidden != nil, previews(r, dir) != "")
		for i, s := range vm.snapshots {
			require.Equal(r, s.name, now[i].Name)
			parent := ""
			if now[i].Parent != nil {
				parent = *now[i].Parent
			}
			require.Equal(r, s.parent, parent, "parent of %s", s.name)
			require.Equal(r, "ready", now[i].State)
			r.verifySnapshot(dir, s)
		}
	}
}

func (r *random) verifySnapshot(dir string, s *modelSnapshot) {
	require.ElementsMatch(r, slices.Collect(maps.Keys(s.files)), snapshotFiles(r, dir, s.name))
	for n, data := range s.files {
		requireContent(r, data, snapshotPath(dir, s.name, n))
	}
}
