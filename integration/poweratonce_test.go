package integration

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	syncingVMs   = 8
	syncedBlocks = 300 // of a disk
	syncedAtOnce = 25  // flushes of each, between two losses of power
)

// TestPowerReplayAtOnce has VMs sync each of their writes, all at the same time, and
// the power fail at any moment of that: what each was told to be on disk is there.
func TestPowerReplayAtOnce(t *testing.T) {
	for fsType := range recorderMounts {
		t.Run(fsType, func(t *testing.T) {
			rec := newRecorder(t, fsType, 1<<30)
			m := rec.newMount()
			require.NoError(t, rec.log.checkSuper())
			rng := newRand(t)
			p := newReplay(rec, rng)
			var vms []*syncingVM
			for i := range syncingVMs {
				vms = append(vms, newSyncingVM(rec, m, fmt.Sprintf("vm%d", i), rng.Uint64()))
			}
			for round := range max(2, *powerPoints/2) {
				from := rec.position()
				var load sync.WaitGroup
				for _, vm := range vms {
					load.Go(vm.writeAndSync)
				}
				load.Wait()
				points := p.between(from, rec.position())
				at := []int64{points[rng.IntN(len(points))], points[rng.IntN(len(points))]}
				slices.Sort(at)
				for _, at := range at {
					lost := rec.mountLost(p, at)
					lost.check()
					lost.start()
					for _, vm := range vms {
						require.NoError(t, vm.verify(lost, at), "%s after a power loss at %d", vm.name, at)
					}
					rec.unmountLost(lost)
				}
				snapshotted := vms[rng.IntN(len(vms))]
				writeFile(t, m.path(snapshotted.name, ".snapshots", "create"), fmt.Appendf(nil, "s%d", round))
			}
			flushes := 0
			for _, vm := range vms {
				flushes += vm.flushes
			}
			t.Logf("%s: %d flushes of %d VMs; %d blocks that were not flushed were lost", fsType, flushes, len(vms), p.dropped)
		})
	}
}

// syncingVM knows what it wrote to its disk, and from which position of the log on it
// has been told that it is durable.
type syncingVM struct {
	rec     *recorder
	name    string
	disk    *os.File
	rng     *rand.Rand
	flushes int
	told    [syncedBlocks][]int64 // by block and version; those are written one after the other
}

func newSyncingVM(rec *recorder, m *mount, name string, seed uint64) *syncingVM {
	t := rec.t
	m.vm(name)
	path := m.disk(name, "disk", syncedBlocks*modelBlock)
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { disk.Close() })
	vm := &syncingVM{rec: rec, name: name, disk: disk, rng: rand.New(rand.NewPCG(seed, 1))}
	vm.write(0, syncedBlocks)
	return vm
}

// writeAndSync writes a few blocks, and syncs them, again and again.
func (vm *syncingVM) writeAndSync() {
	for range syncedAtOnce {
		n := 1 + vm.rng.IntN(3)
		vm.write(vm.rng.IntN(syncedBlocks-n), n)
	}
}

func (vm *syncingVM) write(first, n int) {
	t := vm.rec.t
	var p []byte
	for b := first; b < first+n; b++ {
		p = append(p, vm.block(b, len(vm.told[b]))...)
	}
	writeAt(t, vm.disk, p, int64(first)*modelBlock)
	require.NoError(t, unix.Fdatasync(int(vm.disk.Fd())))
	at := vm.rec.position()
	for b := first; b < first+n; b++ {
		vm.told[b] = append(vm.told[b], at)
	}
	vm.flushes++
}

// block is what a version of a block is written as.
func (vm *syncingVM) block(b, version int) []byte {
	r := rand.NewChaCha8([32]byte{0: vm.name[len(vm.name)-1], 1: byte(b), 2: byte(b >> 8), 3: byte(version), 4: byte(version >> 8)})
	p := make([]byte, modelBlock)
	_, _ = r.Read(p) // never fails
	binary.LittleEndian.PutUint32(p, uint32(version))
	return p
}

// verify reads the disk as it was when the power failed at a position of the log.
func (vm *syncingVM) verify(m *mount, at int64) error {
	p, err := os.ReadFile(filepath.Join(m.dir, vm.name, "disk"))
	if err != nil {
		return err
	}
	for b := range syncedBlocks {
		got := p[b*modelBlock : (b+1)*modelBlock]
		version, least := int(binary.LittleEndian.Uint32(got)), 0
		for v, told := range vm.told[b] {
			if told <= at {
				least = v
			}
		}
		switch {
		case version < least:
			return fmt.Errorf("block %d is of version %d, and %d was flushed", b, version, least)
		case version >= len(vm.told[b]), !slices.Equal(got, vm.block(b, version)):
			return fmt.Errorf("block %d is what nobody wrote", b)
		}
	}
	return nil
}
