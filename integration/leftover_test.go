package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// TestKilledImages ends imports and exports amid their work: one that is asked to
// end clears up, and after one that was killed the next does. One that is still
// under way is left alone.
func TestKilledImages(t *testing.T) {
	m := newMount(t)
	vm, dir := m.vm("web"), t.TempDir()
	disk := m.disk("web", "root.img", 0)
	writeSynced(t, disk, 8<<20)
	slow := slowImages(t)
	exporting := func(image string) *exec.Cmd { return slow("export", disk, filepath.Join(dir, image)) }
	importing := func(file string) *exec.Cmd { return slow("import", disk, filepath.Join(vm, file)) }
	parts := func(dir string) []string {
		found, err := filepath.Glob(filepath.Join(dir, ".part-*"))
		require.NoError(t, err)
		return found
	}
	for _, c := range []struct {
		start func(name string) *exec.Cmd
		dir   string
	}{{exporting, dir}, {importing, vm}} {
		begun := func(n int) func() bool { return func() bool { return len(parts(c.dir)) == n } }
		asked := c.start("asked.raw")
		require.Eventually(t, begun(1), patience, time.Millisecond)
		for range 2 { // as timeout(1) does
			require.NoError(t, asked.Process.Signal(unix.SIGINT))
		}
		require.Error(t, asked.Wait())
		require.Empty(t, parts(c.dir))
		require.Empty(t, list(t, vm))

		killed, other := c.start("killed.raw"), c.start("other.raw")
		require.Eventually(t, begun(2), patience, time.Millisecond)
		require.NoError(t, killed.Process.Kill())
		require.Error(t, killed.Wait())
		require.Len(t, parts(c.dir), 2)
		mustSnapfs(t, "import", disk, filepath.Join(vm, "third.img"))
		mustSnapfs(t, "export", "--force", disk, filepath.Join(dir, "third.raw"))
		require.Len(t, parts(c.dir), 1, "what is under way is left alone")
		require.NoError(t, other.Process.Kill())
		require.Error(t, other.Wait())

		out, err := exec.Command(daemon.Binary, "export", "--force", disk, filepath.Join(dir, "last.raw")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		if c.dir == dir {
			require.Contains(t, string(out), ", which a command that was killed had left")
			require.Contains(t, string(out), "snapfs: deleted snapshot export-")
		}
		require.Empty(t, list(t, vm))
		require.NoError(t, os.Remove(filepath.Join(vm, "third.img")))
		mustSnapfs(t, "import", disk, filepath.Join(vm, "last.img"))
		require.NoError(t, os.Remove(filepath.Join(vm, "last.img")))
		require.Empty(t, parts(c.dir))
	}
	require.Equal(t, []string{"root.img"}, names(t, vm))
}

// slowImages starts commands for which qemu-img takes its time. They end with the test.
func slowImages(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	real, err := exec.LookPath("qemu-img")
	require.NoError(t, err)
	path := t.TempDir()
	script := "#!/bin/sh\nif [ \"$1\" = convert ]; then shift; set -- convert -r 64K \"$@\"; fi\nexec " + real + " \"$@\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(path, "qemu-img"), []byte(script), 0o755))
	return func(args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(daemon.Binary, args...)
		cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd
	}
}
