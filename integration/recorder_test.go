package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// recorder is a host's file system on a block device whose requests are logged:
// QEMU's storage daemon exports a disk that does so as a file, and a loop device
// makes a block device of that.
type recorder struct {
	host
	fsType string
	blank  string // the disk as it was before the first request
	log    *writeLog
}

// recorderMounts are a file system's options: it leaves it to snapfs when a journal
// is committed, where it can.
var recorderMounts = map[string]string{"ext4": "commit=3600", "xfs": "nouuid"}

func newRecorder(t testing.TB, fsType string, size int64) *recorder {
	t.Helper()
	base := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "tmpfs", base) // for speed: nothing of this need survive
	t.Cleanup(func() { _ = unix.Unmount(base, unix.MNT_DETACH) })
	r := &recorder{host: host{t: t, image: filepath.Join(base, "disk.img"), dir: filepath.Join(base, "host")}, fsType: fsType, blank: filepath.Join(base, "blank.img")}
	require.NoError(t, os.Mkdir(r.dir, 0o755))
	writeFile(t, r.blank, nil)
	require.NoError(t, os.Truncate(r.blank, size))
	run(t, "mkfs."+fsType, "-q", r.blank)
	run(t, "cp", "--sparse=always", r.blank, r.image)

	log := filepath.Join(base, "writes.log")
	writeFile(t, log, nil)
	// What it is told to flush it need not, for only the log counts.
	device := exportDisk(t, filepath.Join(base, "device"), size,
		"--blockdev", "driver=file,node-name=disk,cache.no-flush=on,filename="+r.image,
		"--blockdev", "driver=file,node-name=log,cache.no-flush=on,filename="+log,
		"--blockdev", "driver=blklogwrites,node-name=exported,file=disk,log=log")
	run(t, "mount", "-o", recorderMounts[fsType], device, r.dir)
	t.Cleanup(func() { _ = unix.Unmount(r.dir, 0) })
	var err error
	r.log, err = openWriteLog(log)
	require.NoError(t, err)
	t.Cleanup(func() { r.log.f.Close() })
	return r
}

// exportDisk has QEMU's storage daemon serve its node "exported", which args
// describe, as a file, and returns a block device of that.
func exportDisk(t testing.TB, file string, size int64, args ...string) (device string) {
	t.Helper()
	writeFile(t, file, nil)
	var stderr bytes.Buffer
	cmd := exec.Command("qemu-storage-daemon",
		append(args, "--export", "type=fuse,id=device,node-name=exported,writable=on,mountpoint="+file)...)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-exited
	})
	require.Eventually(t, func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() == size
	}, patience, 10*time.Millisecond, "the device does not appear: %s", &stderr)
	oneByOne(t, file)
	device = strings.TrimSpace(run(t, "losetup", "--direct-io=on", "--find", "--show", file))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	return device
}

// oneByOne has the kernel send a FUSE mount no write before the last one has been
// answered: older QEMUs (7.2) read the next into the buffer of the one that they
// are still about, and so write the wrong thing.
func oneByOne(t testing.TB, mountpoint string) {
	t.Helper()
	control := t.TempDir()
	run(t, "mount", "-t", "fusectl", "fusectl", control)
	defer func() { require.NoError(t, unix.Unmount(control, unix.MNT_DETACH)) }()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(mountpoint, &st))
	path := filepath.Join(control, fmt.Sprint(unix.Minor(st.Dev)), "max_background")
	require.NoError(t, os.WriteFile(path, []byte("1"), 0))
}

// position is how far the log has got.
func (r *recorder) position() int64 {
	r.t.Helper()
	size, err := r.log.size()
	require.NoError(r.t, err)
	return size
}
