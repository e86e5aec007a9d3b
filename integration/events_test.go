package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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
