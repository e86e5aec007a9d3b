package fs

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// withMemory has create save a memory that some text stands for.
func withMemory(t *testing.T, memory string) Options {
	return Options{Create: func(vm *layer.VM, r CreateRequest) (Created, error) {
		if !r.Memory {
			return createCrash(vm, r)
		}
		image, err := vm.Store().NewImage(int64(len(memory)))
		require.NoError(t, err)
		_, err = image.File().WriteString(memory)
		require.NoError(t, err)
		running := true
		r.Image, r.Running, r.Machine = image, &running, []byte(`{"version": null, "cpus": [{"cpu-index": 0}]}`)
		info, err := vm.CreateSnapshot(r.CreateOptions)
		require.NoError(t, image.Discard())
		return Created{SnapshotInfo: info}, err
	}}
}

// A snapshot's directory has the machine's memory and a description, which can be read at any place and not changed.
func TestBeside(t *testing.T) {
	text := strings.Repeat("all that the machine knew; ", 100_000)
	m := mountStore(t, withMemory(t, text))
	m.vm("web", "x")
	require.NoError(t, os.Chown(m.path("web"), 7, 8))
	made := m.do("web", "create", "one memory=true")["snapshot"].(map[string]any)
	require.EqualValues(t, len(text), made["memory"])
	require.Equal(t, true, made["running"])
	require.Equal(t, []string{"disk", "memory", "snapshot.json"}, m.list("web", layer.SnapDir, "one"))
	memory, about := m.path("web", layer.SnapDir, "one", "memory"), m.path("web", layer.SnapDir, "one", "snapshot.json")
	require.True(t, text == m.read("web", layer.SnapDir, "one", "memory"))
	f, err := os.Open(memory)
	require.NoError(t, err)
	part := make([]byte, 1000)
	_, err = f.ReadAt(part, 2_000_001)
	require.NoError(t, err)
	require.Equal(t, text[2_000_001:2_001_001], string(part))
	_, err = m.command("web", "delete", "one")
	require.ErrorIs(t, err, unix.EBUSY)
	require.NoError(t, f.Close())

	for path, size := range map[string]int{memory: len(text), about: len(m.read("web", layer.SnapDir, "one", "snapshot.json"))} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(path, &st))
		require.EqualValues(t, size, st.Size)
		require.EqualValues(t, unix.S_IFREG|0o400, st.Mode)
		require.EqualValues(t, []uint32{7, 8}, []uint32{st.Uid, st.Gid})
		_, err := os.OpenFile(path, os.O_RDWR, 0)
		require.ErrorIs(t, err, unix.EROFS)
		require.ErrorIs(t, os.Truncate(path, 0), unix.EROFS)
		require.ErrorIs(t, os.Chmod(path, 0o666), unix.EROFS)
		require.ErrorIs(t, os.Remove(path), unix.EROFS)
	}

	var described struct {
		VM, Name string
		Memory   int64
		Running  bool
		Machine  map[string]any
	}
	// Open, it stays the same; opened anew, it shows what is new.
	f, err = os.Open(about)
	require.NoError(t, err)
	_, err = f.ReadAt(part[:10], 0)
	require.NoError(t, err)
	require.NoError(t, os.Rename(m.path("web", layer.SnapDir, "one"), m.path("web", layer.SnapDir, "another")))
	n, err := f.ReadAt(part, 0)
	require.Equal(t, "EOF", err.Error())
	require.NoError(t, f.Close())
	require.NoError(t, json.Unmarshal(part[:n], &described))
	require.Equal(t, "one", described.Name)
	require.NoError(t, json.Unmarshal([]byte(m.read("web", layer.SnapDir, "another", "snapshot.json")), &described))
	require.Equal(t, "another", described.Name)
	require.Equal(t, "web", described.VM)
	require.EqualValues(t, len(text), described.Memory)
	require.True(t, described.Running)
	require.Contains(t, described.Machine, "cpus")
	m.do("web", "delete", "another")
}

// A snapshot without them has a description, too.
func TestAboutWithoutMachine(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	_, err := m.command("web", "create", "one memory=true")
	require.ErrorIs(t, err, unix.EINVAL)
	m.do("web", "create", "one")
	require.Equal(t, []string{"disk", "snapshot.json"}, m.list("web", layer.SnapDir, "one"))
	require.NoFileExists(t, m.path("web", layer.SnapDir, "one", "memory"))
	about := m.read("web", layer.SnapDir, "one", "snapshot.json")
	require.Contains(t, about, `"memory":null,"running":null`)
	require.Contains(t, about, `"machine":null`)
}
