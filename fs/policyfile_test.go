package fs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// policy reads a VM's policy as people do.
func (m *mounted) policy(vm string) layer.Policy {
	m.Helper()
	p, err := layer.ParsePolicy([]byte(m.read(vm, layer.SnapDir, "policy")))
	require.NoError(m, err)
	return p
}

func TestPolicyFile(t *testing.T) {
	changed := make(chan string, 10) // the answers come through the kernel, of which the race detector knows nothing
	m := mountStore(t, Options{PolicyChanged: func(vm *layer.VM) { changed <- vm.Name() }})
	m.vm("web", "x")
	require.Equal(t, layer.DefaultPolicy(), m.policy("web"))
	require.Contains(t, m.read("web", layer.SnapDir, "policy"), "\n  \"quiesce\": {\n    \"mode\": \"none\",", "indented, and in full")
	info, err := os.Stat(m.path("web", layer.SnapDir, "policy"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	answer := m.do("web", "policy", `{"exclude": ["swap"], "schedule": "0 3 * * *", "quiesce": {"pre": ["/etc/pre"]}}`)
	require.Equal(t, []any{"swap"}, answer["policy"].(map[string]any)["exclude"])
	want := layer.DefaultPolicy()
	want.Exclude, want.Schedule, want.Quiesce.Pre = []string{"swap"}, "0 3 * * *", []string{"/etc/pre"}
	require.Equal(t, want, m.policy("web"))
	require.Equal(t, "web", <-changed)

	for document, says := range map[string]string{
		`{"limit": {"bytes": "many"}}`:    "not a size",
		`{"schedule": "at night"}`:        "schedule",
		`{"colour": "red"}`:               "colour",
		`{} {}`:                           "follows",
		`{`:                               "policy",
		"\n":                              "empty document",
		strings.Repeat(" ", maxCommand+1): "at most",
	} {
		answer, err := m.command("web", "policy", document)
		require.ErrorIs(t, err, unix.EINVAL)
		require.Contains(t, answer["error"].(map[string]any)["message"], says)
	}
	require.Equal(t, want, m.policy("web"), "a bad document leaves the old one")
	require.Empty(t, changed)
	log := m.read("web", layer.SnapDir, "log")
	require.Contains(t, log, `policy vm=web mode=none schedule="0 3 * * *"`)
	require.Contains(t, log, "policy-failed vm=web errno=EINVAL")

	m.do("web", "policy", "{}")
	require.Equal(t, layer.DefaultPolicy(), m.policy("web"))
}

// asUser calls fn on a thread that the kernel takes for another user's. The thread ends with it.
func asUser(uid int, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(uid); err != nil {
			panic(err)
		}
		fn()
	}()
	<-done
}

// A VM's owner sets its policy, but not what runs or is reached on the host; nor does he get root to do it.
func TestPolicyIsRoots(t *testing.T) {
	const user = 4711
	m := mountStore(t, Options{})
	m.vm("web", "x")
	require.NoError(t, os.Chmod(filepath.Dir(m.dir), 0o755))
	require.NoError(t, os.Chown(m.path("web"), user, user))
	m.do("web", "policy", `{"quiesce": {"pre": ["/etc/pre"], "agent": "/run/agent"}}`)
	path := m.path("web", layer.SnapDir, "policy")
	set := func(fd int, document string) error {
		_, err := unix.Write(fd, []byte(document))
		return err
	}
	asUser(user, func() {
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
		for _, document := range []string{
			`{}`, `{"quiesce": {"pre": ["/etc/pre"], "agent": "/run/other"}}`,
			`{"quiesce": {"pre": ["/etc/pre", "/tmp/own"], "agent": "/run/agent"}}`,
			`{"quiesce": {"pre": ["/etc/pre"], "agent": "/run/agent", "post": ["/tmp/own"]}}`,
			`{"quiesce": {"pre": ["/etc/pre"], "agent": "/run/agent", "qmp": "/tmp/own"}}`,
		} {
			require.Equal(t, syscall.EPERM, set(fd, document), document)
		}
		require.NoError(t, set(fd, `{"quiesce": {"mode": "agent", "pre": ["/etc/pre"], "agent": "/run/agent"}}`))
	})
	require.Equal(t, "agent", m.policy("web").Quiesce.Mode)

	var opened int
	asUser(user, func() {
		var err error
		opened, err = unix.Open(path, unix.O_WRONLY, 0)
		require.NoError(t, err)
	})
	defer unix.Close(opened)
	require.Equal(t, syscall.EPERM, set(opened, `{}`), "root writes to what another user opened")
	require.Equal(t, "agent", m.policy("web").Quiesce.Mode)
}

// Who composes a mount takes its snapshots, and says what is wrong with a VM.
func TestComposedMount(t *testing.T) {
	asked := make(chan CreateRequest, 1) // as in TestPolicyFile
	m := mountStore(t, Options{
		Create: func(vm *layer.VM, r CreateRequest) (Created, error) {
			info, err := vm.CreateSnapshot(r.CreateOptions)
			warning := "not quiesced"
			info.Warning = &warning
			r.By = layer.Request{} // differs each time
			asked <- r
			return Created{SnapshotInfo: info, Paused: 12 * time.Millisecond}, err
		},
		Reasons: func(vm *layer.VM) []string { return []string{vm.Name() + " is not as it should be"} },
	})
	m.vm("web", "x")
	answer := m.do("web", "create", "one hooks=db,web files=disk")
	require.Equal(t, CreateRequest{CreateOptions: layer.CreateOptions{Name: "one", Files: []string{"disk"}}, Hooks: []string{"db", "web"}}, <-asked)
	require.EqualValues(t, 12, answer["paused_ms"])
	require.Equal(t, "not quiesced", answer["snapshot"].(map[string]any)["warning"])
	require.NoError(t, os.Mkdir(m.path("web", layer.SnapDir, "two"), 0o755))
	require.Equal(t, CreateRequest{CreateOptions: layer.CreateOptions{Name: "two"}}, <-asked)
	require.Contains(t, m.read("web", layer.SnapDir, "log"), `create vm=web snapshot=one consistency=off paused_ms=12 warning="not quiesced"`)
	var status layer.VMStatus
	require.NoError(t, json.Unmarshal([]byte(m.read("web", layer.SnapDir, "status")), &status))
	require.False(t, status.Compliant)
	require.Equal(t, []string{"web is not as it should be"}, status.Reasons)
}
