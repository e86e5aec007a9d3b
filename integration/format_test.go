package integration

// Versions of the format: programs that know older and newer ones than the program under test, built for it.

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// buildKnowing builds a program that knows versions of the format up to one.
func buildKnowing(t *testing.T, version int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapfs")
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-C", "..", "-trimpath", "-o", path,
		"-ldflags", fmt.Sprintf("-X github.com/snapfs/snapfs/layer.newest=%d", version), "./cmd/snapfs")
	return readFile(t, path)
}

// formatOf is what a mount says of its store's format.
func formatOf(t *testing.T, m *mount) (version, newest int) {
	t.Helper()
	var status struct {
		Format struct{ Version, Newest int }
	}
	require.NoError(t, json.Unmarshal(readFile(t, snapshotPath(m.dir, "status")), &status))
	require.Contains(t, string(readFile(t, filepath.Join(m.store, "FORMAT"))), fmt.Sprintf(`"version":%d,`, status.Format.Version))
	return status.Format.Version, status.Format.Newest
}

// flushes writes blocks that are new to a disk, and flushes each.
type flushes struct {
	t    *testing.T
	disk *os.File
	n    int
}

func (f *flushes) some(n int) {
	f.t.Helper()
	for range n {
		_, err := f.disk.WriteAt(f.block(f.n), int64(f.n)*8192)
		require.NoError(f.t, err)
		require.NoError(f.t, unix.Fdatasync(int(f.disk.Fd())))
		f.n++
	}
}

func (f *flushes) block(i int) []byte { return fmt.Appendf(nil, "%-4096d", i+1) }

// there says that all that was flushed is in a disk.
func (f *flushes) there(path string) {
	f.t.Helper()
	content := readFile(f.t, path)
	for i := range f.n {
		require.Equal(f.t, f.block(i), content[i*8192:i*8192+4096], "block %d, which was flushed", 2*i)
	}
}

// TestUpgradeAcrossFormats has a store that an older version made served by this one, and by the older one again, while fio
// writes and verifies; then its format is raised, and the older version refuses it.
func TestUpgradeAcrossFormats(t *testing.T) {
	newer, older := readFile(t, daemon.Binary), buildKnowing(t, 1)
	program := filepath.Join(t.TempDir(), "snapfs")
	install(t, older, program)
	base := t.TempDir()
	m := &mount{t: t, store: filepath.Join(base, "store"), dir: filepath.Join(base, "mnt")}
	require.NoError(t, os.Mkdir(m.dir, 0o755))
	t.Cleanup(m.cleanup)
	m.Daemon = daemon.StartProgram(t, program, m.store, m.dir)
	m.vm("web")
	said := startFio(m.disk("web", "busy.img", 0))
	f := &flushes{t: t, disk: open(t, m.disk("web", "disk.img", 16<<20), os.O_RDWR)}
	journal := filepath.Join(m.store, "journal")
	f.some(10)
	for range 2 {
		install(t, newer, program)
		mustSnapfs(t, "upgrade", m.dir)
		version, newest := formatOf(t, m)
		require.Equal(t, []int{1, 2}, []int{version, newest})
		require.Contains(t, mustSnapfs(t, "log", m.dir), "older-format version=1 newest=2")
		require.Contains(t, mustSnapfs(t, "status", m.dir), "1 (newest 2, lacks a journal")
		f.some(10)
		install(t, older, program)
		mustSnapfs(t, "upgrade", m.dir)
		f.some(10)
	}
	install(t, newer, program)
	mustSnapfs(t, "upgrade", m.dir)
	f.some(10)
	require.NoFileExists(t, journal)
	require.ErrorIs(t, os.WriteFile(snapshotPath(m.dir, "format"), []byte("3\n"), 0), unix.EINVAL)
	require.Contains(t, mustSnapfs(t, "upgrade", m.dir, "--format"), "its store has version 2 of the format")
	version, newest := formatOf(t, m)
	require.Equal(t, []int{2, 2}, []int{version, newest})
	require.Eventually(t, func() bool { f.some(1); _, err := os.Stat(journal); return err == nil }, patience, time.Millisecond)
	f.some(10)

	// The older version, which could still come back, must not any more, though no worker comes up.
	require.Eventually(t, func() bool {
		st, err := m.status()
		require.NoError(t, err)
		return strings.Contains(st.LastExit, "the version of before does not come back, as it may not know the store: it has version 2 of the format now") || m.killTwo()
	}, patience, time.Millisecond)

	worker, err := m.answering()
	require.NoError(t, err)
	install(t, older, program)
	failSnapfs(t, "was made by a newer version: version 2; this program knows 1 only", "upgrade", m.dir)
	require.Equal(t, worker, m.Worker())
	f.some(10)
	require.NoError(t, <-said)
	f.there(m.path("web", "disk.img"))

	m.kill() // with records in the journal
	text, err := exec.Command(program, "mount", m.store, t.TempDir()).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "was made by a newer version: version 2; this program knows 1 only")
	m.start()
	f.there(m.path("web", "disk.img"))
}

// killTwo kills a worker, and the next one before it has answered anything, if it is in time.
func (m *mount) killTwo() (false bool) {
	first := m.Worker()
	_ = unix.Kill(first, unix.SIGKILL)
	for next := first; next == first || next == 0; next = m.Worker() {
		time.Sleep(time.Millisecond)
	}
	_ = unix.Kill(m.Worker(), unix.SIGKILL)
	return false
}

// TestManagedMountOfNewerFormat has an older version started by the service manager for a mount that a newer one served: it
// refuses, and guests wait for the newer one.
func TestManagedMountOfNewerFormat(t *testing.T) {
	older := filepath.Join(t.TempDir(), "snapfs")
	install(t, buildKnowing(t, 1), older)
	m, manager := newManagedMount(t, filepath.Join(t.TempDir(), "notify"))
	m.vm("web")
	disk := open(t, m.disk("web", "disk.img", 4096), os.O_RDWR)
	_, err := disk.WriteAt([]byte("not flushed"), 0)
	require.NoError(t, err)
	m.Kill()
	cmd := manager.command(m.store, m.dir)
	for i := range cmd.Args {
		cmd.Args[i] = strings.ReplaceAll(cmd.Args[i], daemon.Binary, older)
	}
	text, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "the mount waits for the version that served it before: store "+m.store+" was made by a newer version: version 2; this program knows 1 only")
	m.Daemon = daemon.StartCommand(t, manager.command(m.store, m.dir), m.dir)
	got := make([]byte, 11)
	_, err = disk.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, "not flushed", string(got))
	require.NoError(t, disk.Close())
}

// TestNewerFormat has a store that a newer version made refused, by name.
func TestNewerFormat(t *testing.T) {
	program := filepath.Join(t.TempDir(), "snapfs")
	install(t, buildKnowing(t, 3), program)
	base := t.TempDir()
	m := &mount{t: t, store: filepath.Join(base, "store"), dir: filepath.Join(base, "mnt")}
	require.NoError(t, os.Mkdir(m.dir, 0o755))
	m.Daemon = daemon.StartProgram(t, program, m.store, m.dir)
	newVM(t, m, "web", "content")
	install(t, readFile(t, daemon.Binary), program)
	const refused = "was made by a newer version: version 3; this program knows 1 and 2"
	failSnapfs(t, refused, "upgrade", m.dir)
	requireContent(t, []byte("content"), m.path("web", "disk"))
	m.stop()
	for _, args := range [][]string{{"mount", m.store, m.dir}, {"check", m.store}, {"check", m.store, "--repair"}, {"restore-index", m.store, "--force"}} {
		failSnapfs(t, refused, args...)
	}
}
