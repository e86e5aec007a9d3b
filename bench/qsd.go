package main

// The rival: qemu-storage-daemon, which exports an image as a file through FUSE as well.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// qemuSettings are how QEMU is to access image files.
type qemuSettings struct {
	Direct bool   // past the page cache
	AIO    string // threads, native, io_uring
}

func (q qemuSettings) String() string { return fmt.Sprintf("cache.direct=%t,aio=%s", q.Direct, q.AIO) }

// storageDaemon is an image, or a chain of them, that qemu-storage-daemon serves.
type storageDaemon struct {
	s        *scope
	settings qemuSettings
	format   string
	dir      string
	layers   int    // how many images there are; the newest is the one written to
	path     string // where it shows as a raw file
	cmd      *exec.Cmd
	stderr   bytes.Buffer
	monitor  *qmp
}

// newStorageDaemon makes an image of so many bytes and exports it until the scope ends.
func newStorageDaemon(s *scope, format string, size int64, settings qemuSettings) *storageDaemon {
	dir := s.temp()
	d := &storageDaemon{s: s, settings: settings, format: format, dir: dir, layers: 1, path: filepath.Join(dir, "disk")}
	run(s, "qemu-img", "create", "-q", "-f", format, d.image(0), fmt.Sprint(size))
	require.NoError(s, os.WriteFile(d.path, nil, 0o644))
	d.start()
	s.cleanup(d.stop)
	return d
}

// image is the path of an image of the chain, the oldest being 0.
func (d *storageDaemon) image(i int) string { return filepath.Join(d.dir, fmt.Sprint("image", i)) }

// top is the image that is written to.
func (d *storageDaemon) top() string { return d.image(d.layers - 1) }

// sealed is the newest image that nothing is written to any more.
func (d *storageDaemon) sealed() string { return d.image(d.layers - 2) }

// node is what an image of the chain is called in there.
func (d *storageDaemon) node(i int) string { return fmt.Sprint("image", i) }

func (d *storageDaemon) pid() int { return d.cmd.Process.Pid }

// start serves the chain, with the settings for each image of it.
func (d *storageDaemon) start() {
	var args []string
	for i := range d.layers {
		file := fmt.Sprint("file", i)
		args = append(args, "--blockdev", text(d.s, map[string]any{
			"driver": "file", "node-name": file, "filename": d.image(i), "aio": d.settings.AIO, "read-only": i < d.layers-1,
			"cache": map[string]any{"direct": d.settings.Direct}, "discard": "unmap"}))
		node := map[string]any{"driver": d.format, "node-name": d.node(i), "file": file, "read-only": i < d.layers-1, "discard": "unmap"}
		if i > 0 {
			node["backing"] = d.node(i - 1)
		}
		args = append(args, "--blockdev", text(d.s, node))
	}
	socket := filepath.Join(d.dir, "qmp")
	args = append(args, "--chardev", "socket,id=qmp,server=on,wait=off,path="+socket, "--monitor", "chardev=qmp",
		"--export", "type=fuse,id=export,writable=on,mountpoint="+d.path+",node-name="+d.node(d.layers-1))
	d.cmd = exec.Command("qemu-storage-daemon", args...)
	d.stderr.Reset()
	d.cmd.Stderr = &d.stderr
	start(d.s, d.cmd)
	awaitFUSE(d.s, d.path)
	d.monitor = dialQMP(d.s, socket)
}

// warm reads the images once, past the daemon: a long chain would take that half a minute.
func (d *storageDaemon) warm() {
	buf := make([]byte, mib)
	for i := range d.layers {
		f, err := os.Open(d.image(i))
		require.NoError(d.s, err)
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		require.NoError(d.s, errors.Join(err, f.Close()))
	}
}

// stop ends the daemon; more than once is fine.
func (d *storageDaemon) stop() {
	if d.cmd == nil {
		return
	}
	cmd := d.cmd
	d.cmd = nil
	d.monitor.conn.Close()
	require.NoError(d.s, cmd.Process.Signal(unix.SIGTERM))
	require.NoError(d.s, cmd.Wait(), "%s", &d.stderr)
}

// restart opens the chain anew, as it was left.
func (d *storageDaemon) restart() {
	d.stop()
	d.start()
}

// snapshot puts a new image over the chain while it is served, and returns how long that took.
func (d *storageDaemon) snapshot() time.Duration {
	began := time.Now()
	d.monitor.command("blockdev-snapshot-sync", map[string]any{
		"node-name": d.node(d.layers - 1), "snapshot-file": d.image(d.layers), "snapshot-node-name": d.node(d.layers), "format": d.format})
	d.layers++
	return time.Since(began)
}

func text(s *scope, v any) string {
	b, err := json.Marshal(v)
	require.NoError(s, err)
	return string(b)
}

// discard ends the daemon and removes its images.
func (d *storageDaemon) discard() {
	d.stop()
	require.NoError(d.s, os.RemoveAll(d.dir))
}
