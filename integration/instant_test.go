package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A snapshot is one instant over all disks of a machine. One writer writes each number to all of them, one after the
// other: in no snapshot is a disk ahead of the one before it, or behind it by more than one.

const (
	instantDisks     = 4
	instantSnapshots = 40
	numberAt         = 4096 // where the number stands on a disk, in 512 bytes, with blanks before it
)

// instantMachine makes a machine with such disks, and returns their paths.
func instantMachine(m *mount) (vm string, disks []string) {
	vm = m.vm("db")
	for i := range instantDisks {
		disks = append(disks, m.disk("db", fmt.Sprintf("disk%d.img", i), 1<<20))
	}
	return vm, disks
}

// takeInstants takes the snapshots, each after at least one more number.
func takeInstants(t *testing.T, vm string, disks []string) {
	t.Helper()
	last := 0
	for i := range instantSnapshots {
		require.Eventually(t, func() bool { return numberOn(t, disks[0]) > last }, patience, time.Millisecond)
		mustCommand(t, vm, "create", fmt.Sprint("s", i))
		last = numberOn(t, disks[0])
	}
}

// numberOn is the number on a disk, 0 if none was written yet.
func numberOn(t *testing.T, disk string) int {
	t.Helper()
	f, err := os.Open(disk)
	require.NoError(t, err)
	defer f.Close()
	var text [512]byte
	_, err = f.ReadAt(text[:], numberAt)
	require.NoError(t, err)
	n, err := strconv.Atoi("0" + strings.Trim(string(text[:]), " \x00"))
	require.NoError(t, err, disk)
	return n
}

func requireInstants(t *testing.T, vm string) {
	t.Helper()
	torn, last := 0, 0
	for i := range instantSnapshots {
		name := fmt.Sprint("s", i)
		var numbers []int
		for d := range instantDisks {
			numbers = append(numbers, numberOn(t, snapshotPath(vm, name, fmt.Sprintf("disk%d.img", d))))
		}
		first, end := numbers[0], numbers[instantDisks-1]
		require.IsNonIncreasing(t, numbers, name)
		require.LessOrEqual(t, first-end, 1, "%s: %v", name, numbers)
		require.Greater(t, first, last, "%s: %v", name, numbers)
		last = first
		if first != end {
			torn++
		}
	}
	t.Logf("%d of %d snapshots fell between two disks", torn, instantSnapshots)
}

// TestOneInstant has a process of the host write, with O_DIRECT as QEMU does.
func TestOneInstant(t *testing.T) {
	m := newMount(t)
	vm, disks := instantMachine(m)
	var files []*os.File
	for _, disk := range disks {
		files = append(files, open(t, disk, os.O_RDWR|syscall.O_DIRECT))
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	require.Zero(t, uintptr(unsafe.Pointer(&page[0]))%512, "what O_DIRECT needs")
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 1; ; n++ {
			copy(page, fmt.Sprintf("%512d", n))
			for _, f := range files {
				if _, err := f.WriteAt(page[:512], numberAt); err != nil {
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
	takeInstants(t, vm, disks)
	close(stop)
	require.NoError(t, <-stopped)
	require.NoError(t, unix.Munmap(page))
	for _, f := range files {
		require.NoError(t, f.Close())
	}
	requireInstants(t, vm)
	m.remount()
	requireInstants(t, vm)
}

// TestOneInstantOfAGuest has a guest write, which waits for each disk to have it before it goes on to the next.
func TestOneInstantOfAGuest(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm, disks := instantMachine(m)
	g := startGuest(t, t.TempDir(), "db", disks...)
	inGuest(t, g, `
		while :; do
			n=$((n + 1))
			for d in a b c d; do printf %512d $n | dd of=/dev/vd$d bs=512 seek=8 conv=notrunc,fsync 2>/dev/null || exit; done
		done >/dev/null 2>&1 </dev/null &`)
	takeInstants(t, vm, disks)
	require.NoError(t, g.Quit(t.Context()))
	requireInstants(t, vm)
}
