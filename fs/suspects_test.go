package fs

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

// suspected is a store whose workers died while requests ran.
type suspected struct {
	*playedKernel
	store  *layer.Store
	events *EventLog
	dir    node // .snapshots of its VM
}

func newSuspected(t *testing.T, fault func(req []byte)) *suspected {
	store, err := layer.Open(t.TempDir(), layer.Options{Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(t, err)
	vm, err := store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	events := NewEventLog()
	k := playKernel(t, store, Options{Log: events, Logf: t.Logf, Fault: fault})
	t.Cleanup(func() {
		k.close()
		require.NoError(t, store.Close())
	})
	return &suspected{k, store, events, snapDirNode(vm.ID())}
}

// died has so many workers die while a request ran.
func (k *suspected) died(request uint64, deaths int) {
	for range deaths {
		k.store.Session().LoopSlot(0).Store(request)
		k.store.Session().Blame()
	}
	k.store.Session().Renew()
}

func stat(unique uint64) []byte { return encode(fuse.GetAttrIn{}, opGetAttr, rootNode, unique, "") }

// Of what is sent again, those that killed three times are refused before all else, then those that may have killed
// twice run one by one, then the others; what is new waits.
func TestSuspects(t *testing.T) {
	var running, ran atomic.Int32
	var alone sync.Map
	k := newSuspected(t, func(req []byte) {
		alone.Store(uniqueOf(req)&^resent, running.Add(1) == 1)
		time.Sleep(time.Millisecond)
		running.Add(-1)
		ran.Add(1)
	})
	for request, deaths := range map[uint64]int{100: 1, 102: 3, 104: 2, 106: 2, 110: 4} {
		k.died(request, deaths)
	}
	for _, request := range []uint64{100, 102, 104, 106, 108, 110} {
		k.send(t, stat(request|resent))
		k.send(t, encode(fuse.ForgetIn{}, opForget, rootNode, request+1000, ""))
		k.send(t, encode(fuse.InterruptIn{Unique: request}, opInterrupt, 0, request|resent|1, ""))
	}
	k.send(t, stat(112))
	k.send(t, stat(114))
	require.NoError(t, k.s.tryAlone(k.s.devices[0]))
	k.s.running.Wait()
	replies := k.replies(t)
	require.Len(t, replies, 7)
	for i, request := range []uint64{102, 110, 104, 106} {
		require.Equal(t, request|resent, replies[i].unique)
		want := int32(0)
		if i < 2 {
			want = -int32(syscall.EIO)
		}
		require.Equal(t, want, replies[i].errno)
	}
	require.EqualValues(t, 5, ran.Load(), "those that are refused do not run")
	for _, request := range []uint64{104, 106} {
		was, _ := alone.Load(request)
		require.Equal(t, true, was)
	}
	require.Empty(t, k.store.Session().Suspects())
	require.Empty(t, k.store.Session().Running())
	require.Contains(t, k.events.Text(""), "request-refused op=GETATTR errno=EIO")
	n, err := k.s.devices[0].read(k.got)
	require.NoError(t, err)
	require.Equal(t, uint64(114), uniqueOf(k.got[:n]))
}

// With nobody who may have killed twice nothing is read before the loops do, and who is answered is no suspect.
func TestSuspectOnce(t *testing.T) {
	k := newSuspected(t, nil)
	k.died(100, 1)
	k.send(t, stat(100|resent))
	require.NoError(t, k.s.tryAlone(k.s.devices[0]))
	require.Empty(t, k.replies(t))
	require.Len(t, k.serve(t, stat(100|resent)), 1)
	require.Empty(t, k.store.Session().Suspects())
}

// A request that does not come to an end does not keep the others for ever.
func TestSuspectThatHangs(t *testing.T) {
	defer func(was time.Duration) { aloneTime = was }(aloneTime)
	aloneTime = time.Millisecond
	others := make(chan struct{})
	k := newSuspected(t, func(req []byte) {
		if uniqueOf(req) == 100|resent {
			<-others
		} else {
			close(others)
		}
	})
	k.died(100, 2)
	k.send(t, stat(100|resent))
	k.send(t, stat(102))
	require.NoError(t, k.s.tryAlone(k.s.devices[0]))
	k.s.running.Wait()
	require.Len(t, k.replies(t), 2)
	require.Empty(t, k.store.Session().Suspects())
}

// Commands run beside others, and not two at once. One that was done gets its answer, if that is to be had at all.
func TestSuspectCommands(t *testing.T) {
	var running atomic.Int32
	others := make(chan struct{})
	k := newSuspected(t, func(req []byte) {
		switch uniqueOf(req) {
		case 106 | resent:
			close(others)
		default:
			<-others // which a command may need
			if running.Add(1) != 1 {
				panic("two commands at once")
			}
			time.Sleep(time.Millisecond)
			running.Add(-1)
		}
	})
	mkdir := func(unique uint64, name string) []byte {
		return encode(fuse.MkdirIn{}, opMkdir, k.dir, unique|resent, name+"\x00")
	}
	k.died(100, 2)
	k.died(102, 2)
	k.died(104, 3)
	for _, req := range [][]byte{mkdir(100, "a"), mkdir(102, "b"), mkdir(104, "c"), stat(106 | resent)} {
		k.send(t, req)
	}
	require.NoError(t, k.s.tryAlone(k.s.devices[0]))
	k.s.running.Wait()
	replies := k.replies(t)
	require.Len(t, replies, 4)
	require.Equal(t, uint64(104|resent), replies[0].unique)
	require.Equal(t, -int32(syscall.EIO), replies[0].errno)
	require.False(t, slices.ContainsFunc(replies[1:], func(r reply) bool { return r.errno != 0 }))
}

// A command that was done and not answered is answered as it went, unless that kills too.
func TestSuspectThatWasDone(t *testing.T) {
	k := newSuspected(t, nil)
	mkdir := encode(fuse.MkdirIn{}, opMkdir, k.dir, 100, "a\x00")
	status := k.s.files.Mkdir(nil, &fuse.MkdirIn{InHeader: fuse.InHeader{NodeId: uint64(k.dir), Unique: 100}}, "a", new(fuse.EntryOut))
	require.Equal(t, fuse.OK, status)
	k.died(100, 3)
	require.Equal(t, refused, k.s.treatment(mkdir, k.store.Session().Suspects()))

	require.NoError(t, k.store.Close())
	store, err := layer.Open(k.store.Dir(), layer.Options{Session: k.store.Session()})
	require.NoError(t, err)
	defer store.Close()
	k.s.files.store = store
	require.Equal(t, inTurn, k.s.treatment(mkdir, store.Session().Suspects()))
	k.died(100, 1)
	require.Equal(t, refused, k.s.treatment(mkdir, store.Session().Suspects()))
}
