package fs

// A kernel that is played: requests come in, and answers go out, through a socket that keeps their bounds as /dev/fuse does.

import (
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// playedKernel is one, and the session that serves it; no loop runs.
type playedKernel struct {
	fd   int
	s    *Session
	loop *loop
	got  []byte // room for an answer
}

// reply is an answer as the kernel gets it.
type reply struct {
	unique uint64
	errno  int32 // negative, or 0
	size   int   // of all of it, in bytes
	body   []byte
}

func playKernel(t testing.TB, store *layer.Store, o Options) *playedKernel {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	for _, fd := range pair {
		require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20))
	}
	o.Devices = pair[1:]
	o.ensureDefaults()
	s := newSession(store, o)
	k := &playedKernel{fd: pair[0], s: s, got: make([]byte, 2*maxIO)}
	k.loop = &loop{s: s, dev: s.devices[0], slot: store.Session().LoopSlot(0), buf: s.pool.get()}
	k.send(t, encode(fuse.InitIn{Major: 7, Minor: 41, Flags: 1 << 30, Flags2: 1 << 7}, 26, 0, 2, ""))
	require.NoError(t, s.begin(s.devices[0]))
	k.replies(t)
	return k
}

func (k *playedKernel) close() {
	k.s.running.Wait()
	k.s.pool.put(k.loop.buf)
	k.s.closeDevices()
	k.s.pool.close()
	unix.Close(k.fd)
}

// send has a request wait to be read.
func (k *playedKernel) send(t testing.TB, req []byte) {
	t.Helper()
	_, err := unix.Write(k.fd, req)
	require.NoError(t, err)
}

// serve has a loop serve a request, to its end, and returns what was answered.
func (k *playedKernel) serve(t testing.TB, req []byte) []reply {
	t.Helper()
	n := copy(k.loop.buf.request(), req)
	k.loop.take(k.loop.arrived(k.loop.dev, n))
	k.loop.refill()
	k.s.running.Wait()
	return k.replies(t)
}

// replies takes the answers that are there.
func (k *playedKernel) replies(t testing.TB) (all []reply) {
	t.Helper()
	for {
		n, _, err := unix.Recvfrom(k.fd, k.got, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return all
		}
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, outHeader)
		h := (*fuse.OutHeader)(unsafe.Pointer(&k.got[0]))
		require.Equal(t, n, int(h.Length))
		all = append(all, reply{h.Unique, h.Status, n, append([]byte(nil), k.got[outHeader:n]...)})
	}
}

// encode makes the bytes of a request from what go-fuse calls its input, and what follows that.
func encode[In any](in In, op uint32, n node, unique uint64, tail string) []byte {
	h := (*fuse.InHeader)(unsafe.Pointer(&in))
	h.Opcode, h.NodeId, h.Unique = op, uint64(n), unique
	h.Length = uint32(int(unsafe.Sizeof(in)) + len(tail))
	return append(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in))...), tail...)
}
