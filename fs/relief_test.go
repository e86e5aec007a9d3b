package fs

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
)

// All loops wait, for the reads of one VM: others stand in for them, until they are back.
func TestRelief(t *testing.T) {
	const readers = 4
	release, waiting := make(chan struct{}), make(chan struct{}, readers)
	var files atomic.Pointer[server]
	m := mountStore(t, Options{Readers: readers, Fault: func(req []byte) {
		h := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
		if h.Opcode != opRead || node(h.NodeId).kind() != kindFile {
			return
		}
		if f, err := files.Load().store.FileByID(node(h.NodeId).fileID()); err == nil && f.VM().Name() == "busy" {
			waiting <- struct{}{}
			<-release
		}
	}})
	files.Store(m.session.files)
	m.vm("busy", "slow")
	m.vm("quick", "quick")
	events := func() string { return m.read(".snapshots", "log") }

	var reads sync.WaitGroup
	for range readers {
		reads.Go(func() { require.Equal(t, "slow", m.read("busy", "disk")) })
	}
	for range readers {
		<-waiting
	}
	require.Equal(t, "quick", m.read("quick", "disk"))
	m.write("written", "quick", "disk")
	require.Equal(t, "written", m.read("quick", "disk"))
	require.Contains(t, events(), "disk-slow")
	require.NotContains(t, events(), "disk-ok")

	close(release)
	reads.Wait()
	require.Eventually(t, func() bool { return strings.Contains(events(), "disk-ok") }, time.Minute, 10*time.Millisecond)
	require.False(t, m.session.relief.slow.Load())
	for range 2 * readers {
		require.Equal(t, "written", m.read("quick", "disk"))
	}
}
