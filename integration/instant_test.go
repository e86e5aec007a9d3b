package integration

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOneInstant writes one number after another to a journal and then to a data
// disk. A snapshot is one instant over both: the journal is never behind.
func TestOneInstant(t *testing.T) {
	m := newMount(t)
	vm := m.vm("db")
	journal := open(t, m.disk("db", "journal.img", 1<<20), os.O_RDWR)
	data := open(t, m.disk("db", "data.img", 1<<20), os.O_RDWR)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := uint64(1); ; i++ {
			number := binary.LittleEndian.AppendUint64(nil, i)
			for _, f := range []*os.File{journal, data} {
				if _, err := f.WriteAt(number, 4096); err != nil {
					stopped <- err
					return
				}
			}
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
		}
	}()
	const snapshots = 50
	for i := range snapshots {
		mustCommand(t, vm, "create", fmt.Sprint("s", i))
	}
	close(stop)
	require.NoError(t, <-stopped)
	number := func(snap, file string) uint64 {
		return binary.LittleEndian.Uint64(readFile(t, snapshotPath(vm, snap, file))[4096:])
	}
	var last uint64
	for i := range snapshots {
		snap := fmt.Sprint("s", i)
		j, d := number(snap, "journal.img"), number(snap, "data.img")
		require.Contains(t, []uint64{d, d + 1}, j, "%s: data %d", snap, d)
		require.GreaterOrEqual(t, d, last)
		last = d
	}
	require.Positive(t, last, "nothing was written")
	require.NoError(t, journal.Close())
	require.NoError(t, data.Close())
}
