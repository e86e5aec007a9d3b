package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// newMonitor is a monitor behind a unix socket whose machine runs and has the given disks.
func newMonitor(t *testing.T, disks ...string) (path string) {
	dir, err := os.MkdirTemp("", "monitor") // a socket's path has to be short
	require.NoError(t, err)
	path = filepath.Join(dir, "qmp")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	var blocks []string
	for i, d := range disks {
		file, readOnly := strings.CutPrefix(d, "ro:")
		blocks = append(blocks, fmt.Sprintf(`{"device": "d%d", "inserted": {"file": %q, "drv": "raw", "ro": %v}}`, i, file, readOnly))
	}
	answers := map[string]string{
		"query-block":  "[" + strings.Join(blocks, ", ") + "]",
		"query-status": `{"running": true, "status": "running"}`,
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": []}}`)
			for lines := bufio.NewScanner(conn); lines.Scan(); { // one client at a time, as QEMU does
				var c struct {
					Execute string
					ID      json.RawMessage
				}
				if json.Unmarshal(lines.Bytes(), &c) != nil {
					continue
				}
				value, ok := answers[c.Execute]
				if !ok {
					value = "{}"
				}
				fmt.Fprintf(conn, `{"return": %s, "id": %s}`+"\n", value, c.ID)
			}
			conn.Close()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serving.Wait()
		require.NoError(t, os.RemoveAll(dir))
	})
	return path
}

func TestDisksOutside(t *testing.T) {
	k := newKept(t)
	k.policy(fmt.Sprintf(`{"qmp": %q}`, newMonitor(t, "/mnt/web/root.img", "ro:/iso/install.iso", "/dev/mapper/lun1")))
	_, err := k.create("one")
	require.Equal(t, syscall.EINVAL, layer.Errno(err))
	require.ErrorContains(t, err, "disk d2 of the machine, /dev/mapper/lun1,")
	require.Empty(t, k.vm.Snapshots())

	p := k.vm.Policy()
	p.Exclude = []string{"lun1"}
	require.NoError(t, k.vm.SetPolicy(p))
	two := k.made("two")
	require.Nil(t, two.Warning)
	require.True(t, *two.Running)
	require.Nil(t, two.Memory)
	n, err := k.vm.Snapshot("two")
	require.NoError(t, err)
	about, err := n.Machine()
	require.NoError(t, err)
	require.Contains(t, string(about), `"block":[{"device":"d0",`)

	p.Exclude = []string{}
	require.NoError(t, k.vm.SetPolicy(p))
	_, err = k.taker.take(k.vm, fs.CreateRequest{CreateOptions: layer.CreateOptions{Name: "three", Files: []string{"root.img"}}})
	require.NoError(t, err, "somebody chose what is in it")
	k.stopGuest()
	_, err = k.create("four")
	require.Equal(t, syscall.EINVAL, layer.Errno(err), "the machine has that disk and no other")
}

// A path that QEMU was given from where it was started is looked for there.
func TestDiskOfARelativePath(t *testing.T) {
	t.Chdir("/mnt") // of the monitor's process, and of the VM
	k := newKept(t)
	k.policy(fmt.Sprintf(`{"qmp": %q}`, newMonitor(t, "web/root.img")))
	require.Nil(t, k.made("one").Warning)
	k.policy(fmt.Sprintf(`{"qmp": %q}`, newMonitor(t, "db/root.img")))
	_, err := k.create("two")
	require.ErrorContains(t, err, "disk d0 of the machine, /mnt/db/root.img, is not in the directory of VM")
}

// A monitor that is not there keeps no snapshot from being taken, where it has no other part in it.
func TestNoMonitor(t *testing.T) {
	k := newKept(t)
	k.policy(`{"qmp": "/nonexistent"}`)
	info := k.made("one")
	require.Contains(t, *info.Warning, "not known whether all disks are in the snapshot: monitor /nonexistent")
	k.policy(`{"mode": "pause", "qmp": "/nonexistent"}`)
	_, err := k.create("two")
	require.Equal(t, syscall.EIO, layer.Errno(err))
	k.policy(`{"qmp": "/nonexistent"}`)
	_, err = k.taker.take(k.vm, fs.CreateRequest{CreateOptions: layer.CreateOptions{Name: "three"}, Memory: true})
	require.Equal(t, syscall.EIO, layer.Errno(err), "a memory is not to be had without")
	k.stopGuest()
	off := k.made("off")
	require.Nil(t, off.Warning)
	require.False(t, *off.Running, "nobody is there, and nobody has a file open")
	k.policy(`{}`)
	require.Nil(t, k.made("unknown").Running)
}

func TestPaused(t *testing.T) {
	k := newKept(t)
	k.policy(fmt.Sprintf(`{"mode": "pause", "qmp": %q}`, newMonitor(t, "/mnt/web/root.img")))
	info := k.made("one")
	require.Equal(t, layer.ConsistencyCrash, info.Consistency)
	require.Nil(t, info.Warning)
	require.Contains(t, k.events.Text("web"), "guest-held vm=web snapshot=one mode=pause ms=")
	require.NoFileExists(t, k.frozenFile())
}
