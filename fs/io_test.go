package fs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// noise is reproducible and of no pattern.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = rng.Read(p)
	return p
}

// Writes of all the sizes that take different ways: in the loop, copied out of it, along with the loop's buffer, and
// more than one request. Parallel, as QEMU does it, with and without O_DSYNC.
func TestParallelIO(t *testing.T) {
	m := mountStore(t, Options{})
	require.NoError(t, os.Mkdir(m.path("web"), 0o755))
	for _, flags := range []int{0, unix.O_DSYNC, unix.O_SYNC, unix.O_DIRECT} {
		f, err := os.OpenFile(m.path("web", "disk"), os.O_CREATE|os.O_RDWR|flags, 0o600)
		require.NoError(t, err)
		sizes := []int{512, 4096, copyLimit - writeHeader, copyLimit, 300 << 10, maxIO, 3*maxIO + 4096}
		if flags == unix.O_DIRECT {
			sizes[2] = 8192
		}
		const span = 4 << 20
		var all sync.WaitGroup
		for i, size := range sizes {
			all.Go(func() {
				want, got, off := noise(uint64(i), size), make([]byte, size), int64(i)*span
				for range 5 {
					_, err := f.WriteAt(want, off)
					require.NoError(t, err)
					_, err = f.ReadAt(got, off)
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, got), "%d bytes", size)
				}
			})
		}
		all.Wait()
		require.NoError(t, f.Close())
	}
	pool := &m.session.pool
	pool.mu.Lock()
	defer pool.mu.Unlock()
	require.LessOrEqual(t, len(pool.free), keptBuffers)
}

// Writes that run into snapshots being taken are parked and answered: nothing gets lost, fails or blocks others.
func TestWritesDuringSnapshots(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "")
	f, err := os.OpenFile(m.path("web", "disk"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	stop := make(chan struct{})
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for round := uint64(0); ; round++ {
				want, got := noise(round, 128<<10), make([]byte, 128<<10)
				_, err := f.WriteAt(want, int64(w)<<20)
				require.NoError(t, err)
				_, err = f.ReadAt(got, int64(w)<<20)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got))
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		m.do("web", "create", name)
	}
	close(stop)
	all.Wait()
}

// What was written with O_DSYNC is there when everything dies right after: a copy of the store, taken while it is
// in use, has it.
func TestDurableWrites(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "")
	for _, flag := range []int{unix.O_DSYNC, unix.O_SYNC} {
		f, err := os.OpenFile(m.path("web", "disk"), os.O_RDWR|flag, 0)
		require.NoError(t, err)
		want := noise(uint64(flag), 10_000)
		_, err = f.WriteAt(want, 5000)
		require.NoError(t, err)

		dir := filepath.Join(t.TempDir(), "copy")
		m.copyStore(dir)
		store, err := layer.Open(dir, layer.Options{Reserve: layer.Reserve{Bytes: 1 << 20}})
		require.NoError(t, err)
		vm, err := store.VM("web")
		require.NoError(t, err)
		disk, err := vm.Lookup("disk")
		require.NoError(t, err)
		got := make([]byte, 20_000)
		n, err := disk.Read(got, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got[5000:n]))
		require.NoError(t, store.Close())
		require.NoError(t, f.Close())
	}
}

// copyStore copies the store in between two commits of its index, and after the first write's journal was made: a copy takes
// a while, and what is made meanwhile would be in one file of it and not in another.
func (m *mounted) copyStore(dir string) {
	m.Helper()
	commits := func() []byte {
		p, err := os.ReadFile(filepath.Join(m.store.Dir(), "commits"))
		require.NoError(m, err)
		return p
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		require.True(m, time.Now().Before(deadline))
		before := commits()
		if _, err := os.Stat(filepath.Join(m.store.Dir(), "journal")); err != nil {
			continue
		}
		out, err := exec.Command("cp", "-a", m.store.Dir(), dir).CombinedOutput()
		require.NoError(m, err, "%s", out)
		if bytes.Equal(before, commits()) {
			return
		}
		require.NoError(m, os.RemoveAll(dir))
	}
}

// The way that disks' reads and writes take allocates nothing.
func TestLoopAllocatesNothing(t *testing.T) {
	store, err := layer.Open(t.TempDir(), layer.Options{})
	require.NoError(t, err)
	defer store.Close()
	vm, err := store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	disk, _, err := vm.Create("disk", 0o600, 0, 0, true)
	require.NoError(t, err)
	_, err = disk.Write(make([]byte, pageSize), 0, true) // from here on the map is in memory
	require.NoError(t, err)
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(null)

	o := Options{Logf: t.Logf}
	o.ensureDefaults()
	s := newSession(store, o)
	l := &loop{s: s, dev: device{null, store.Session(), t.Logf}, slot: store.Session().LoopSlot(0), buf: s.pool.get()}
	defer unmapBuffer(l.buf)
	write := l.buf.request()[:writeHeader+pageSize]
	ask := func(opcode uint32) {
		in := (*fuse.WriteIn)(unsafe.Pointer(&write[0])) // a READ's header looks the same
		*in = fuse.WriteIn{Size: pageSize}
		in.Opcode, in.NodeId, in.Unique = opcode, uint64(fileNode(disk.ID())), 2
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		ask(opWrite)
		l.serve(&request{l.dev, write, l.buf})
	}), "WRITE")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		ask(opRead)
		l.serve(&request{l.dev, write[:readHeader], l.buf})
	}), "READ")
}

// A panic is not answered in place of the request that caused it: it goes on up, and ends the process.
func TestPanicGoesOn(t *testing.T) {
	var o Options
	o.ensureDefaults()
	protocol := fuse.NewProtocolServer(newServer(nil, o), protocolOptions(t.Logf))
	req := make([]byte, inHeader+8)
	in := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
	in.Length, in.Opcode, in.NodeId = uint32(len(req)), opLookup, uint64(rootNode)
	copy(req[inHeader:], "web")
	require.Panics(t, func() {
		protocol.HandleRequest([][]byte{req}, [][]byte{make([]byte, pageSize)})
	})
}
