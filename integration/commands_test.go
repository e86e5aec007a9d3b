package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newVM is a VM with one small file, "disk", that reads as its only content.
func newVM(t testing.TB, m *mount, name, content string) string {
	t.Helper()
	vm := m.vm(name)
	writeFile(t, filepath.Join(vm, "disk"), []byte(content))
	return vm
}

func TestCreateCommand(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "content")
	for line, name := range map[string]string{
		"plain":                                "plain",
		"with-newline\n":                       "with-newline",
		`"two words"`:                          "two words",
		`"quote\"back\\slash"`:                 `quote"back\slash`,
		`described description="before it"`:    "described",
		`{"name": "json", "description": "d"}`: "json",
		"größe":                                "größe",
		strings.Repeat("n", 255):               strings.Repeat("n", 255),
	} {
		a := mustCommand(t, vm, "create", line)
		require.Equal(t, name, a.Snapshot.Name)
		requireContent(t, []byte("content"), snapshotPath(vm, name, "disk"))
		failCommand(t, syscall.EEXIST, vm, "create", line)
	}
	require.Len(t, list(t, vm), 8)
	for _, line := range append([]string{
		"\n", `""`, "a/b", "..", strings.Repeat("n", 256), `"unfinished`, "name nonsense=1", "name words",
		`{"name": "x"`, `{"name": ""}`, `{"nom": "x"}`, `{"name": 1}`, `{"name": "x"} more`,
		"name " + strings.Repeat(" ", 64<<10),
	}, badNames...) {
		failCommand(t, syscall.EINVAL, vm, "create", line)
	}
	failCommand(t, syscall.ENOENT, vm, "create", "partial files=none")
	require.Len(t, list(t, vm), 8)

	writeFile(t, filepath.Join(vm, "settings.xml"), []byte("<domain/>"))
	a := mustCommand(t, vm, "create", `{"name": "partial", "files": ["settings.xml"]}`)
	require.Equal(t, []string{"disk"}, a.Snapshot.Excluded)
	require.Equal(t, []string{"settings.xml"}, snapshotFiles(t, vm, "partial"))
}

// TestControlDialogue reads and writes a control file as a script does.
func TestControlDialogue(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "content")
	for _, name := range strings.Fields("create delete rename revert") {
		usage := string(readFile(t, snapshotPath(vm, name)))
		require.Contains(t, usage, name, "reading it fresh gives its usage")
	}
	f := open(t, snapshotPath(vm, "create"), os.O_RDWR|os.O_TRUNC)
	for i := range 3 { // offset and earlier answers do not matter
		_, err := fmt.Fprintf(f, "s%d\n", i)
		require.NoError(t, err)
		text, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Contains(t, string(text), fmt.Sprintf(`"s%d"`, i))
	}
	_, err := f.WriteString("s0")
	require.ErrorIs(t, err, syscall.EEXIST)
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Contains(t, string(text), "EEXIST")
	run(t, "sh", "-c", fmt.Sprintf("echo from-shell >%s/create && echo s1 >>%s/delete", snapshotPath(vm, ""), snapshotPath(vm, "")))
	require.Equal(t, []string{"s0", "s2", "from-shell"}, snapshotNames(t, vm))
	for _, name := range strings.Fields("tree list status log") {
		_, err := os.OpenFile(snapshotPath(vm, name), os.O_WRONLY, 0)
		require.Error(t, err, "%s is for reading", name)
	}
}

func TestDeleteCommand(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "0")
	for i := 1; i <= 6; i++ {
		mustCommand(t, vm, "create", fmt.Sprint("s", i))
		writeFile(t, filepath.Join(vm, "disk"), []byte(fmt.Sprint(i)))
	}
	failCommand(t, syscall.ENOENT, vm, "delete", "none")
	failCommand(t, syscall.ENOENT, vm, "delete", "s1 none")
	failCommand(t, syscall.EINVAL, vm, "delete", "\n")
	held := open(t, snapshotPath(vm, "s2", "disk"), os.O_RDONLY)
	failCommand(t, syscall.EBUSY, vm, "delete", "s2")
	failCommand(t, syscall.EBUSY, vm, "delete", "s1 s2 s3")
	require.Len(t, list(t, vm), 6, "all or none")
	require.NoError(t, held.Close())
	mustCommand(t, vm, "delete", "s2")
	a := mustCommand(t, vm, "delete", `{"names": ["s1", "s4"]}`)
	require.Len(t, a.Snapshots, 2)
	mustCommand(t, vm, "delete", "s6")
	require.Equal(t, []string{"s3", "s5"}, snapshotNames(t, vm))
	m.remount()
	requireContent(t, []byte("2"), snapshotPath(vm, "s3", "disk"))
	requireContent(t, []byte("4"), snapshotPath(vm, "s5", "disk"))
	requireContent(t, []byte("6"), filepath.Join(vm, "disk"))
	require.Equal(t, "s3", *list(t, vm)[1].Parent, "who loses its parent gets the one before")
	mustCommand(t, vm, "create", "s1") // a name is free again
}

func TestRenameCommand(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "x")
	mustCommand(t, vm, "create", "a")
	mustCommand(t, vm, "create", "b")
	failCommand(t, syscall.EEXIST, vm, "rename", "a b")
	failCommand(t, syscall.ENOENT, vm, "rename", "none c")
	failCommand(t, syscall.EINVAL, vm, "rename", "a")
	failCommand(t, syscall.EINVAL, vm, "rename", "a list")
	failCommand(t, syscall.EINVAL, vm, "rename", "a .hidden")
	held := open(t, snapshotPath(vm, "a", "disk"), os.O_RDONLY)
	require.Equal(t, "new name", mustCommand(t, vm, "rename", `a "new name"`).Snapshot.Name)
	require.NoError(t, held.Close())
	mustCommand(t, vm, "rename", `{"name": "b", "to": "a"}`)
	m.remount()
	require.Equal(t, []string{"new name", "a"}, snapshotNames(t, vm))
	require.Equal(t, "new name", *list(t, vm)[1].Parent)
}

func TestRevertCommand(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "old")
	path := func(name string) string { return filepath.Join(vm, name) }
	require.NoError(t, os.Chmod(path("disk"), 0o640))
	writeFile(t, path("nvram.fd"), pattern(1, 5001))
	writeFile(t, path("settings"), []byte("kept out"))
	require.NoError(t, os.Truncate(path("disk"), 1<<20+1))
	want := readFile(t, path("disk"))
	mustCommand(t, vm, "create", "base")

	writeFile(t, path("disk"), []byte("new"))
	require.NoError(t, os.Chmod(path("disk"), 0o600))
	require.NoError(t, os.Rename(path("nvram.fd"), path("moved.fd")))
	require.NoError(t, os.Remove(path("settings")))
	writeFile(t, path("newer"), []byte("made after"))

	failCommand(t, syscall.ENOENT, vm, "revert", "none")
	failCommand(t, syscall.EINVAL, vm, "revert", "\n")
	failCommand(t, syscall.EINVAL, vm, "revert", "base force=perhaps")
	writer := open(t, path("disk"), os.O_RDWR)
	failCommand(t, syscall.EBUSY, vm, "revert", "base")
	require.Equal(t, []string{"disk", "moved.fd", "newer"}, names(t, vm), "what fails changes nothing")
	require.NoError(t, writer.Close())
	reader := open(t, path("disk"), os.O_RDONLY) // does not stand in the way
	mustCommand(t, vm, "revert", "base")
	require.NoError(t, reader.Close())

	require.Equal(t, []string{"disk", "nvram.fd", "settings"}, names(t, vm))
	requireContent(t, want, path("disk"))
	requireContent(t, pattern(1, 5001), path("nvram.fd"))
	info, err := os.Stat(path("disk"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	all := snapshotNames(t, vm)
	require.Len(t, all, 2, "what was left is kept")
	kept := all[1]
	_, err = time.Parse("20060102T150405Z", strings.TrimPrefix(kept, "before-revert-"))
	require.NoError(t, err, kept)
	require.Equal(t, []string{"disk", "moved.fd", "newer"}, snapshotFiles(t, vm, kept))

	// Forward again, and nothing kept.
	mustCommand(t, vm, "revert", kept+" discard=true")
	require.Len(t, list(t, vm), 2)
	requireContent(t, []byte("new"), path("disk"))
	requireContent(t, []byte("made after"), path("newer"))
	m.remount()
	requireContent(t, []byte("new"), path("disk"))
	require.Equal(t, []string{"disk", "moved.fd", "newer"}, names(t, vm))
}

// TestForcedRevert goes back under a writer: its open handle shows the old state.
func TestForcedRevert(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", strings.Repeat("old ", 5000))
	mustCommand(t, vm, "create", "base")
	f := open(t, filepath.Join(vm, "disk"), os.O_RDWR)
	writeAt(t, f, []byte(strings.Repeat("new ", 2500)), 0)
	mustSnapfs(t, "revert", vm, "base", "--force")
	b := make([]byte, 20000)
	n, err := f.ReadAt(b, 0)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("old ", 5000), string(b[:n]))
	writeAt(t, f, []byte("later"), 10)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	want := []byte(strings.Repeat("old ", 5000))
	copy(want[10:], "later")
	requireContent(t, want, filepath.Join(vm, "disk"))
	requireContent(t, []byte(strings.Repeat("old ", 5000)), snapshotPath(vm, "base", "disk"))
}

// TestPartialRevert reverts some files, and leaves out what was excluded.
func TestPartialRevert(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "disk 1")
	writeFile(t, filepath.Join(vm, "data"), []byte("data 1"))
	mustCommand(t, vm, "create", "both")
	mustCommand(t, vm, "create", "disk-only files=disk")
	writeFile(t, filepath.Join(vm, "disk"), []byte("disk 2"))
	writeFile(t, filepath.Join(vm, "data"), []byte("data 2"))
	mustCommand(t, vm, "revert", "disk-only discard=true")
	requireContent(t, []byte("disk 1"), filepath.Join(vm, "disk"))
	requireContent(t, []byte("data 2"), filepath.Join(vm, "data"))
	writeFile(t, filepath.Join(vm, "disk"), []byte("disk 3"))
	mustSnapfs(t, "revert", vm, "both", "--files", "data", "--discard")
	requireContent(t, []byte("disk 3"), filepath.Join(vm, "disk"))
	requireContent(t, []byte("data 1"), filepath.Join(vm, "data"))
	failCommand(t, syscall.ENOENT, vm, "revert", "both files=none")
}

// TestWhatIsTold reads everything there is to read about a VM and the mount.
func TestWhatIsTold(t *testing.T) {
	m := newMount(t)
	vm := newVM(t, m, "vm", "x")
	require.NoError(t, os.Truncate(filepath.Join(vm, "disk"), 10<<20))
	require.Equal(t, "off", mustCommand(t, vm, "create", "first").Snapshot.Consistency)
	f := open(t, filepath.Join(vm, "disk"), os.O_RDWR)
	mustCommand(t, vm, "create", `second description="while it ran"`)
	require.NoError(t, f.Close())
	mustCommand(t, vm, "revert", "first discard=true")
	mustCommand(t, vm, "create", "branch")

	all := list(t, vm)
	require.Len(t, all, 3)
	require.Nil(t, all[0].Parent)
	require.Equal(t, "first", *all[1].Parent)
	require.Equal(t, "first", *all[2].Parent, "a tree, not a line")
	require.Equal(t, "crash", all[1].Consistency)
	require.Equal(t, "while it ran", all[1].Description)
	for _, s := range all {
		require.Equal(t, "ready", s.State)
		require.Len(t, s.Files, 1)
		require.EqualValues(t, 10<<20, s.Files[0].Size)
		require.Less(t, s.Files[0].Allocated, int64(1<<20))
		_, err := time.Parse(time.RFC3339, s.Created)
		require.NoError(t, err)
	}

	var status struct {
		VM                 string
		Head               string
		Virtual, Allocated int64
		Compliant          bool
	}
	require.NoError(t, json.Unmarshal(readFile(t, snapshotPath(vm, "status")), &status))
	require.Equal(t, "vm", status.VM)
	require.Equal(t, "branch", status.Head)
	require.EqualValues(t, 10<<20, status.Virtual)
	require.True(t, status.Compliant)

	var whole struct {
		Store, Mountpoint string
		WorkerPID         int `json:"worker_pid"`
		SupervisorPID     int `json:"supervisor_pid"`
		Layers            int
		Free              int64
	}
	require.NoError(t, json.Unmarshal(readFile(t, m.path(".snapshots", "status")), &whole))
	require.Equal(t, m.store, whole.Store)
	require.Equal(t, m.dir, whole.Mountpoint)
	require.Equal(t, m.Worker(), whole.WorkerPID)
	require.Equal(t, m.Cmd.Process.Pid, whole.SupervisorPID)
	require.Positive(t, whole.Layers)
	require.Positive(t, whole.Free)

	tree := string(readFile(t, snapshotPath(vm, "tree")))
	for _, name := range []string{"first", "second", "branch"} {
		require.Contains(t, tree, name)
		require.Contains(t, mustSnapfs(t, "tree", vm), name)
		require.Contains(t, mustSnapfs(t, "list", vm), name)
		require.Contains(t, mustSnapfs(t, "list", m.dir), name)
	}
	lines := strings.Split(strings.TrimSpace(string(readFile(t, snapshotPath(vm, "log")))), "\n")
	require.GreaterOrEqual(t, len(lines), 4)
	for _, line := range lines {
		_, err := time.Parse(time.RFC3339, strings.Fields(line)[0])
		require.NoError(t, err, line)
	}
	failCommand(t, syscall.EEXIST, vm, "create", "first")
	require.Contains(t, mustSnapfs(t, "log", vm), "EEXIST", "failures are told too")
	for _, args := range [][]string{{"list", vm}, {"list", m.dir}, {"status", vm}, {"status", m.dir}, {"tree", vm}, {"log", vm}} {
		require.True(t, json.Valid([]byte(mustSnapfs(t, append(args, "--json")...))), "%v", args)
	}
}
