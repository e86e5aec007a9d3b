package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// TestEventsOfOthers has the owner of one VM tell more than the store keeps of
// events: what another VM's log has is there when another worker takes over, and
// after a cold start.
func TestEventsOfOthers(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	loud, quiet := m.vm("loud"), m.vm("quiet")
	mustCommand(t, quiet, "create", "kept")
	before := readFile(t, snapshotPath(quiet, "log"))
	long := bytes.Repeat([]byte("nothing "), 100)
	together(t, 8, func(int) error {
		for range 1000 {
			if err := os.WriteFile(snapshotPath(loud, "delete"), long, 0); err == nil {
				return fmt.Errorf("there is no such snapshot")
			}
		}
		return nil
	})
	st, err := os.Stat(filepath.Join(m.store, "events"))
	require.NoError(t, err)
	require.Less(t, st.Size(), int64(4<<20))
	worker := m.Worker()
	require.NoError(t, unix.Kill(worker, unix.SIGKILL))
	require.Equal(t, string(before), string(readFile(t, snapshotPath(quiet, "log"))))
	require.NotEqual(t, worker, m.Worker())
	m.remount()
	require.Equal(t, string(before), string(readFile(t, snapshotPath(quiet, "log"))))
	require.Equal(t, 1000, bytes.Count(readFile(t, snapshotPath(loud, "log")), []byte("\n")))
}

// TestEventsUnread has nobody read what a daemon in the foreground says, until no
// more of it fits: commands, of which each is told, go on, and so do all that its
// file of events is to have.
func TestEventsUnread(t *testing.T) {
	m := newMount(t)
	m.stop()
	unread, stderr, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command("sh", "-c", `exec "$0" "$@" 2>&3 3>&-`, daemon.Binary, "mount", m.store, m.dir, "-f")
	cmd.ExtraFiles = []*os.File{stderr}
	m.Daemon = daemon.StartCommand(t, cmd, m.dir)
	require.NoError(t, stderr.Close())
	read := sync.OnceFunc(func() { go func() { _, _ = io.Copy(io.Discard, unread) }() })
	t.Cleanup(read)

	vm := m.vm("web")
	var done atomic.Bool
	go func() {
		for range 1000 {
			_ = os.WriteFile(snapshotPath(vm, "delete"), bytes.Repeat([]byte("nothing "), 100), 0)
		}
		done.Store(true)
	}()
	require.Eventually(t, done.Load, patience, time.Millisecond)
	mustCommand(t, vm, "create", "in-the-end")
	require.Eventually(t, func() bool {
		return bytes.Contains(readFile(t, filepath.Join(m.store, "events")), []byte("create vm=web snapshot=in-the-end"))
	}, patience, time.Millisecond)
	read()
}
