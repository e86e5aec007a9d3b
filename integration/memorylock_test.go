package integration

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/integration/daemon"
)

// TestMemoryLocked has a daemon that may lock little memory say so, once for
// each worker, and serve.
func TestMemoryLocked(t *testing.T) {
	m := newMount(t)
	m.vm("web")
	m.stop()
	m.Daemon = daemon.StartCommand(t, exec.Command("setpriv", "--bounding-set=-ipc_lock,-sys_resource",
		"prlimit", "--memlock=65536:65536", daemon.Binary, "mount", "-f", m.store, m.dir), m.dir)
	require.DirExists(t, m.path("web"))
	stderr := m.Stderr
	m.stop()
	require.Equal(t, 1, strings.Count(stderr.String(), "request buffers can't be locked in memory"), stderr)
}
