package fs

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/layer"
)

// One VM keeps far more requests under way than there are loops, each of which takes its time. Another VM's next request
// does not wait behind all of them.
func TestTurns(t *testing.T) {
	const readers, depth = 2, 256
	var slow atomic.Uint64 // the busy VM's disk
	var served atomic.Int64
	m := mountStore(t, Options{Readers: readers, Fault: func(req []byte) {
		if opcodeOf(req) == opRead && uint64(nodeOf(req)) == slow.Load() {
			time.Sleep(time.Millisecond)
			served.Add(1)
		}
	}})
	m.vm("busy", "slow")
	m.vm("quick", "quick")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(m.path("busy", "disk"), &st))
	slow.Store(st.Ino)

	var over atomic.Bool
	var busy sync.WaitGroup
	deep, err := unix.Open(m.path("busy", "disk"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(deep)
	quick, err := unix.Open(m.path("quick", "disk"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(quick)
	for range depth {
		busy.Go(func() {
			var p [4]byte
			for !over.Load() {
				n, err := unix.Pread(deep, p[:], 0)
				if n != 4 || err != nil {
					t.Errorf("read %d: %v", n, err)
					return
				}
			}
		})
	}
	defer busy.Wait()
	defer over.Store(true)
	require.Eventually(t, func() bool { return served.Load() > 2*depth }, time.Minute, time.Millisecond)
	const reads = 10
	before := served.Load()
	for range reads {
		var p [5]byte
		n, err := unix.Pread(quick, p[:], 0)
		require.NoError(t, err)
		require.Equal(t, "quick", string(p[:n]))
	}
	meanwhile := served.Load() - before
	t.Logf("%d requests of the busy VM were served for each of the quick one", meanwhile/reads)
	require.Less(t, meanwhile/reads, int64(depth/4))
}

// A VM's requests come in their order, and VMs in turn.
func TestTurnsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var buffers pool
		defer buffers.close()
		var q turns
		waiting := make(map[layer.VMID][]request)
		var order []layer.VMID // of VMs with any
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				vm := layer.VMID(rapid.IntRange(1, 4).Draw(t, "vm"))
				size := rapid.SampledFrom([]int{inHeader, readHeader, writeHeader + pageSize, copyLimit, copyLimit + 1, writeHeader + maxIO}).Draw(t, "size")
				b := buffers.get()
				p := b.request()[:size]
				copy(p, rapid.SliceOfN(rapid.Byte(), inHeader, inHeader).Draw(t, "header"))
				r := request{device{fd: rapid.Int().Draw(t, "fd")}, p, b}
				if len(waiting[vm]) == 0 {
					order = append(order, vm)
				}
				waiting[vm] = append(waiting[vm], request{r.dev, append([]byte(nil), p...), nil})
				q.put(vm, &r)
				if size > copyLimit {
					require.Nil(t, r.buf, "a large one stays where it is")
				} else if r.buf != nil {
					clear(p)
					buffers.put(r.buf)
				}
			},
			"take": func(t *rapid.T) {
				w := q.take()
				if len(order) == 0 {
					require.Nil(t, w)
					return
				}
				vm := order[0]
				want := waiting[vm][0]
				order, waiting[vm] = order[1:], waiting[vm][1:]
				if len(waiting[vm]) > 0 {
					order = append(order, vm)
				}
				require.Equal(t, want.p, w.p)
				require.Equal(t, want.dev.fd, w.dev.fd)
				w.done(&buffers)
			},
			"": func(t *rapid.T) {
				n, bytes := 0, 0
				for _, all := range waiting {
					n += len(all)
					for _, r := range all {
						bytes += len(r.p)
					}
				}
				require.EqualValues(t, n, q.queued.Load())
				require.GreaterOrEqual(t, q.bytes.Load(), int64(bytes))
			},
		})
		for w := q.take(); w != nil; w = q.take() {
			w.done(&buffers)
		}
		require.Zero(t, q.bytes.Load())
	})
}

// Large requests are left in the kernel when enough are read, for a VM that is the only one sooner, and so are all while a
// loop is idle.
func TestTurnsWanted(t *testing.T) {
	var buffers pool
	defer buffers.close()
	var q turns
	put := func(vm layer.VMID, size int) {
		r := request{buf: buffers.get()}
		r.p = r.buf.request()[:size]
		q.put(vm, &r)
		if r.buf != nil {
			buffers.put(r.buf)
		}
	}
	empty := func() {
		for w := q.take(); w != nil; w = q.take() {
			w.done(&buffers)
		}
	}
	n := 0
	for put(1, writeHeader+maxIO); q.wanted(); n++ {
		require.Less(t, n, aheadBytes/maxIO)
		put(2, writeHeader+maxIO)
	}
	require.Greater(t, n, aheadBytes/maxIO/2)
	q.take().done(&buffers)
	require.True(t, q.wanted())
	q.idle.Add(1)
	require.False(t, q.wanted())
	q.idle.Add(-1)
	empty()

	for range aloneAfterPuts {
		put(2, writeHeader+pageSize)
		require.True(t, q.wanted())
	}
	put(2, writeHeader+maxIO)
	require.False(t, q.wanted())
	empty()
	require.True(t, q.wanted())
	put(2, writeHeader+maxIO)
	put(1, readHeader)
	require.True(t, q.wanted())
	empty()
}
