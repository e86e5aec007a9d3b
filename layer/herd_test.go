package layer

// A herd of VMs that are cloned from each other, snapshotted, reverted and destroyed, all at once: chains go across VMs,
// lineages are merged and layers leave under everybody's feet.

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const herdBlocks = 12

// herd knows what every snapshot shows.
type herd struct {
	store *Store
	mu    sync.Mutex
	shown map[string][]byte // by VM@snapshot
}

// keeper looks after one VM, alone.
type keeper struct {
	*herd
	name  string
	vm    *VM
	file  *File
	data  []byte
	names []string
	count int
}

func TestHerdOfClones(t *testing.T) {
	s := newStore(t, Options{MapMemory: 64 << 10, MaxOpenFiles: 4})
	h := &herd{store: s, shown: make(map[string][]byte)}
	var keepers []*keeper
	var c crew
	for i := range 4 {
		k := &keeper{herd: h, name: fmt.Sprintf("vm%d", i)}
		require.NoError(t, k.begin())
		keepers = append(keepers, k)
	}
	for _, k := range keepers {
		c.run(120, k.step)
	}
	c.wait(t)
	for _, k := range keepers {
		require.NoError(t, k.file.Flush(true))
	}
	settle(t, s)
	s = reopen(t, s)
	for _, k := range keepers {
		k.vm = vmNamed(t, s, k.name)
		k.file = fileNamed(t, k.vm, "disk")
		require.NoError(t, k.compare())
		for _, name := range k.names {
			requireSame(t, h.shown[k.name+"@"+name], viewed(t, k.vm, name, "disk"), "%s@%s", k.name, name)
		}
	}
	h.store = s
	for _, k := range keepers {
		require.NoError(t, k.destroy())
	}
	settle(t, s)
	require.Equal(t, Stats{}, layerStats(s))
	requireEmptyDir(t, layersDir(s))
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// begin makes a new VM.
func (k *keeper) begin() (err error) {
	if k.vm, err = k.store.CreateVM(k.name, 0o755, 0, 0); err != nil {
		return err
	}
	if k.file, _, err = k.vm.Create("disk", 0o644, 0, 0, true); err != nil {
		return err
	}
	k.data = make([]byte, herdBlocks*blockSize)
	return sized(k.file, int64(len(k.data)))
}

func (k *keeper) step(r *rand.Rand, _ int) error {
	k.count++
	steps := []func(*rand.Rand) error{
		k.write, k.write, k.write, k.discard, k.snapshot, k.snapshot, k.delete, k.delete, k.revert, k.flush, k.breed,
	}
	if err := steps[r.IntN(len(steps))](r); err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	return k.compare()
}

func (k *keeper) compare() error {
	p := make([]byte, len(k.data))
	if _, err := tryOrWait(k.file, p, 0); err != nil {
		return err
	}
	for i := range herdBlocks {
		if at := i * blockSize; !bytes.Equal(p[at:at+blockSize], k.data[at:at+blockSize]) {
			return fmt.Errorf("%s: block %d is not what was written", k.name, i)
		}
	}
	return nil
}

func (k *keeper) write(r *rand.Rand) error {
	off := r.IntN(len(k.data) - 1)
	p := pattern(r.Uint64(), 1+r.IntN(min(3*blockSize, len(k.data)-off)))
	copy(k.data[off:], p)
	_, err := waitFor(k.file.Write, p, int64(off))
	return err
}

func (k *keeper) discard(r *rand.Rand) error {
	off := r.IntN(herdBlocks) * blockSize
	n := min(3*blockSize, len(k.data)-off)
	clear(k.data[off : off+n])
	return k.file.Discard(int64(off), int64(n))
}

func (k *keeper) flush(*rand.Rand) error { return k.file.Flush(true) }

func (k *keeper) snapshot(*rand.Rand) error {
	name := fmt.Sprintf("s%d", k.count)
	k.mu.Lock()
	k.shown[k.name+"@"+name] = bytes.Clone(k.data)
	k.mu.Unlock()
	k.names = append(k.names, name)
	_, err := k.vm.CreateSnapshot(CreateOptions{Name: name})
	return err
}

func (k *keeper) delete(r *rand.Rand) error {
	if len(k.names) == 0 {
		return nil
	}
	i := r.IntN(len(k.names))
	name := k.names[i]
	k.names = append(k.names[:i], k.names[i+1:]...)
	_, err := k.vm.DeleteSnapshots([]string{name})
	return err
}

func (k *keeper) revert(r *rand.Rand) error {
	if len(k.names) == 0 {
		return nil
	}
	name := k.names[r.IntN(len(k.names))]
	k.mu.Lock()
	k.data = bytes.Clone(k.shown[k.name+"@"+name])
	k.mu.Unlock()
	_, err := k.vm.Revert(RevertOptions{Name: name, Discard: true, Force: true})
	return err
}

// breed destroys the VM and makes it anew, as a clone of any snapshot of any of the others, if there is one.
func (k *keeper) breed(r *rand.Rand) error {
	if r.IntN(3) > 0 {
		return nil
	}
	if err := k.destroy(); err != nil {
		return err
	}
	for _, v := range k.store.VMs() {
		all := v.Snapshots()
		if len(all) == 0 || r.IntN(2) == 0 {
			continue
		}
		source, name := v.Name(), all[r.IntN(len(all))].Name()
		clone, err := v.Clone(name, k.name)
		if Errno(err) == syscall.ENOENT { // gone meanwhile
			continue
		}
		if err != nil {
			return err
		}
		k.mu.Lock()
		k.data = bytes.Clone(k.shown[source+"@"+name])
		k.mu.Unlock()
		k.vm = clone
		k.file, err = clone.Lookup("disk")
		return err
	}
	return k.begin()
}

func (k *keeper) destroy() error {
	for _, n := range k.vm.Snapshots() {
		if _, err := k.vm.DeleteSnapshots([]string{n.Name()}); err != nil {
			return err
		}
	}
	k.names = nil
	if err := k.vm.Unlink("disk"); err != nil {
		return err
	}
	return k.store.RemoveVM(k.name)
}
