package integration

// Random operations: what they are drawn from, and what is compared after them.

import (
	"flag"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
	m := h.newMount()
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
	t.Logf("%d operations: %v", steps, r.done)
}

// newRandom starts with two VMs. Nothing crashes if crash is nil.
func newRandom(t *testing.T, m *mount, crash func()) *random {
	r := &random{T: t, rng: newRand(t), m: m, lose: crash, vms: map[string]*modelVM{}, done: map[string]int{}}
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

	vm, file string         // in use; mostly the next request goes there again
	what     string         // the last step was
	done     map[string]int // how often each
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
		{9, "snapshot", r.snapshot}, {6, "delete", r.withSnapshot(r.delete)}, {2, "rename", r.withSnapshot(r.rename)},
		{5, "revert", r.withSnapshot(r.revert)}, {4, "preview", r.withSnapshot(r.preview)}, {3, "undo", r.undo}, {2, "commit", r.commit},
		{1, "clone", r.withSnapshot(r.clone)}, {1, "destroy", r.destroy}, {6, "browse", r.browse},
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
			r.done[s.what]++
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
