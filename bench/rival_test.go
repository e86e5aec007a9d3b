package bench

// The rival: qemu-storage-daemon, which exports an image as a file through FUSE as well.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rival is an image that qemu-storage-daemon serves, through the host's page cache as snapfs does.
type rival struct {
	t             testing.TB
	format, image string
	path          string // where it shows as a raw file
	cmd           *exec.Cmd
	stderr        bytes.Buffer
}

// newRival makes an image of so many bytes and exports it until the benchmark ends.
func newRival(t testing.TB, format string, size int64) *rival {
	t.Helper()
	dir := t.TempDir()
	r := &rival{t: t, format: format, image: filepath.Join(dir, "image"), path: filepath.Join(dir, "disk")}
	run(t, "qemu-img", "create", "-q", "-f", format, r.image, fmt.Sprint(size))
	require.NoError(t, os.WriteFile(r.path, nil, 0o644))
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rival) start() {
	r.t.Helper()
	r.cmd = exec.Command("qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=file,filename="+r.image,
		"--blockdev", "driver="+r.format+",node-name=image,file=file",
		"--export", "type=fuse,id=export,node-name=image,writable=on,mountpoint="+r.path)
	r.cmd.Stderr = &r.stderr
	start(r.t, r.cmd)
	await(r.t, "qemu-storage-daemon", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(r.path, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
	})
}

func (r *rival) stop() {
	r.t.Helper()
	require.NoError(r.t, r.cmd.Process.Signal(unix.SIGTERM))
	require.NoError(r.t, r.cmd.Wait(), "%s", &r.stderr)
}

// snapshot takes an internal one, for which the image must not be in use.
func (r *rival) snapshot(name string) {
	r.t.Helper()
	r.stop()
	run(r.t, "qemu-img", "snapshot", "-c", name, r.image)
	r.start()
}
