package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// patience is how long to wait for what takes a moment at most.
const patience = time.Minute

// mount is a store with a daemon that serves it.
type mount struct {
	*daemon.Daemon // nil if it does not run
	t              testing.TB
	store          string
	dir            string // the mountpoint
	opts           []string
}

// newMount makes a store and serves it until the test ends; then the store must
// pass `snapfs check`.
func newMount(t testing.TB, opts ...string) *mount {
	t.Helper()
	base := t.TempDir()
	m := &mount{t: t, store: filepath.Join(base, "store"), dir: filepath.Join(base, "mnt"), opts: opts}
	require.NoError(t, os.Mkdir(m.dir, 0o755))
	for _, dir := range []string{base, filepath.Dir(base)} { // so that other users get to the mount
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	t.Cleanup(m.cleanup)
	m.start()
	return m
}

// start runs the daemon and returns once the mount answers.
func (m *mount) start() {
	m.t.Helper()
	m.Daemon = daemon.Start(m.t, m.store, m.dir, m.opts...)
}

// stop unmounts in an orderly way; the daemon must end well.
func (m *mount) stop() {
	m.t.Helper()
	mustSnapfs(m.t, "umount", m.dir)
	<-m.Exited
	require.True(m.t, m.Cmd.ProcessState.Success(), "%v: %s", m.Cmd.ProcessState, m.Stderr)
	m.Daemon = nil
}

// kill ends the daemon as a crash does, and clears the dead mount away.
func (m *mount) kill() {
	m.t.Helper()
	m.Kill()
	require.NoError(m.t, unix.Unmount(m.dir, unix.MNT_DETACH))
	m.Daemon = nil
}

// remount closes the store and opens it again.
func (m *mount) remount() {
	m.t.Helper()
	m.stop()
	m.start()
}

// cleanup ends the daemon, well if it can, and checks what it left.
func (m *mount) cleanup() {
	if m.Daemon != nil && !m.t.Failed() {
		m.stop()
	}
	if m.Daemon != nil {
		_ = unix.Unmount(m.dir, unix.MNT_DETACH) // the test has failed already
		m.Kill()
		m.t.Logf("the daemon's log:\n%s", m.Stderr)
	}
	if _, err := os.Stat(m.store); err == nil && !m.t.Failed() {
		m.check()
	}
}

// check has `snapfs check` look at the store, which must not be served.
func (m *mount) check() {
	m.t.Helper()
	r := snapfs(m.t, "check", m.store)
	require.Zero(m.t, r.code, "check: %s%s", r.stdout, r.stderr)
}

// path is a path in the mount.
func (m *mount) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// vm makes a VM and returns its directory.
func (m *mount) vm(name string) string {
	m.t.Helper()
	require.NoError(m.t, os.Mkdir(m.path(name), 0o755))
	return m.path(name)
}

// disk makes a sparse file of so many bytes in a VM and returns its path.
func (m *mount) disk(vm, name string, size int64) string {
	m.t.Helper()
	path := m.path(vm, name)
	writeFile(m.t, path, nil)
	require.NoError(m.t, os.Truncate(path, size))
	return path
}

// storeBytes is what the store occupies on the host's file system.
func (m *mount) storeBytes() int64 {
	m.t.Helper()
	out := run(m.t, "du", "-s", "-B1", filepath.Join(m.store, "layers"))
	total, err := strconv.ParseInt(strings.Fields(out)[0], 10, 64)
	require.NoError(m.t, err)
	return total
}

// allocated is how many bytes stat(2) says a file occupies.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, content, 0o644))
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

// names lists a directory.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
