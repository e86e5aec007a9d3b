package bench

// The daemon: started, asked, and ended with the benchmark.

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/integration/daemon"
)

// patience is how long to wait for what takes seconds at most.
const patience = 2 * time.Minute

// mount is a store that a daemon serves.
type mount struct {
	*daemon.Daemon
	t          testing.TB
	store, dir string
}

// newMount serves a store, new or not, until the benchmark ends.
func newMount(t testing.TB, store string) *mount {
	t.Helper()
	m := &mount{t: t, store: store, dir: t.TempDir()}
	m.Daemon = daemon.Start(t, m.store, m.dir)
	t.Cleanup(func() {
		out, err := exec.Command(daemon.Binary, "umount", m.dir).CombinedOutput()
		require.NoError(t, err, "umount: %s", out)
		<-m.Exited
		require.True(t, m.Cmd.ProcessState.Success(), "%v: %s", m.Cmd.ProcessState, m.Stderr)
	})
	return m
}

// start runs a program that ends with this one.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
}

// await waits until something is so.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "waited too long for %s", what)
	}
}

// run executes a program to its end and returns its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

// path is a path in the mount.
func (m *mount) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// vm makes a VM.
func (m *mount) vm(name string) {
	m.t.Helper()
	require.NoError(m.t, os.Mkdir(m.path(name), 0o755))
}

// snapshot takes one, through the control file.
func (m *mount) snapshot(vm, name string) {
	m.t.Helper()
	m.command(vm, "create", name)
}

// command writes a line to a control file of a VM and returns how long that took.
func (m *mount) command(vm, control, line string) time.Duration {
	m.t.Helper()
	f, err := os.OpenFile(m.path(vm, ".snapshots", control), os.O_WRONLY, 0)
	require.NoError(m.t, err)
	defer f.Close()
	began := time.Now()
	_, err = f.WriteString(line)
	require.NoError(m.t, err, "%s %s", control, line)
	return time.Since(began)
}

// status is a part of what `status` says of the mount.
type status struct {
	Layers        int   `json:"layers"`
	RetiredLayers int   `json:"retired_layers"`
	LayerBytes    int64 `json:"layer_bytes"`
	ReclaimBytes  int64 `json:"reclaim_bytes"`
}

func (m *mount) status() (st status) {
	m.t.Helper()
	text, err := os.ReadFile(m.path(".snapshots", "status"))
	require.NoError(m.t, err)
	require.NoError(m.t, json.Unmarshal(text, &st))
	return st
}

// counter reads a number out of a file of the daemon's in /proc, as in "rchar: 12" or "VmRSS:	 12 kB".
func (m *mount) counter(file, key string) int64 {
	m.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", m.Worker(), file))
	require.NoError(m.t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			require.NoError(m.t, err)
			return n
		}
	}
	require.FailNow(m.t, "no such counter", "%s in %s", key, file)
	return 0
}

// layerFiles is how many data files the store has.
func (m *mount) layerFiles() int { return countFiles(m.t, filepath.Join(m.store, "layers")) }

func countFiles(t testing.TB, dir string) (n int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	}))
	return n
}
