package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestQemuIO gives QEMU's own block layer a script of awkward requests, on a
// disk of the mount and on a plain file: both must answer alike and end alike.
func TestQemuIO(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	const size = 64 << 20
	ours, plain := m.disk("vm", "disk.img", size), filepath.Join(t.TempDir(), "plain.img")
	writeFile(t, plain, nil)
	require.NoError(t, os.Truncate(plain, size))
	rounds := [][]string{{
		"write -P 0x11 0 64k", "write -P 0x22 512 1000", "write -P 0x33 4095 2", "write -P 0x44 8M 4M",
		"write -z 4k 8k", "write -z 8388608 1M", "write -z -u 10M 512k", "write -z 513 100", "discard 11M 1M",
		"read -P 0x11 63k 1k", "read -P 0 4k 8k", "read -P 0 513 100", "aio_write -P 0x55 20M 1M", "aio_flush", "flush",
	}, {
		"write -P 0x66 2k 1k", "write -f -P 0x77 100000 12345", "write -z -f 1M 64k", "discard 0 64k", "discard 20M 512k",
		"read 0 64k", "read -P 0x77 100000 12345", "write -P 0x88 67108352 512", "read -P 0x88 67108352 512", "flush",
	}, {
		"write -z -u 0 32M", "write -P 0x99 5M 3k", "writev -P 0xaa 33M 512 4k 1536", "read -P 0 8M 8M", "flush",
	}}
	for i, commands := range rounds {
		for _, mode := range []string{"none", "writeback"} {
			for _, path := range []string{ours, plain} {
				args := []string{"-f", "raw", "--cache=" + mode, "-d", "unmap"}
				for _, c := range commands {
					args = append(args, "-c", c)
				}
				out := run(t, "qemu-io", append(args, path)...)
				require.NotContains(t, strings.ToLower(out), "failed", "%s", path)
				require.NotContains(t, out, "Pattern verification", "%s", path)
			}
			run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", plain, ours)
		}
		snap := fmt.Sprint("round", i)
		mustCommand(t, vm, "create", snap)
		run(t, "cp", "--sparse=always", plain, plain+snap)
	}
	m.remount()
	for i := range rounds {
		snap := fmt.Sprint("round", i)
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", plain+snap, snapshotPath(vm, snap, "disk.img"))
	}
}

// TestConvert brings images of every format in and takes them out again.
func TestConvert(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	work := t.TempDir()
	const size = 48 << 20
	source := filepath.Join(work, "source.raw")
	f := open(t, source, os.O_CREATE|os.O_RDWR)
	require.NoError(t, f.Truncate(size))
	writeAt(t, f, pattern(1, 1<<20), 0)
	writeAt(t, f, pattern(2, 300_000), 20<<20+512)
	writeAt(t, f, pattern(3, 512), size-512)
	require.NoError(t, f.Close())

	for _, format := range []string{"raw", "qcow2", "vmdk", "vdi", "vhdx"} {
		t.Run(format, func(t *testing.T) {
			image, disk := filepath.Join(work, "in."+format), filepath.Join(vm, format+".img")
			run(t, "qemu-img", "convert", "-f", "raw", "-O", format, source, image)
			mustSnapfs(t, "import", image, disk)
			run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, disk)
			require.Less(t, allocated(t, disk), int64(4<<20), "sparse stays sparse")
			failSnapfs(t, "exists", "import", image, disk)
			mustSnapfs(t, "import", "--force", image, disk)

			mustCommand(t, vm, "create", "of-"+format)
			w := open(t, disk, os.O_WRONLY)
			writeAt(t, w, pattern(4, 5000), 30<<20)
			require.NoError(t, w.Close())
			old, now := filepath.Join(work, "old."+format), filepath.Join(work, "now."+format)
			mustSnapfs(t, "export", disk+"@of-"+format, old, "-O", format)
			mustSnapfs(t, "export", disk, now, "-O", format)
			run(t, "qemu-img", "compare", "-f", "raw", "-F", format, source, old)
			run(t, "qemu-img", "compare", "-f", "raw", "-F", format, disk, now)
			require.Less(t, allocated(t, now), int64(8<<20))
		})
	}
	require.Len(t, list(t, vm), 5, "exports leave no snapshot behind")
	require.Len(t, names(t, vm), 5, "imports leave no other file behind")

	broken := filepath.Join(work, "broken.qcow2")
	writeFile(t, broken, append([]byte("QFI\xfb"), pattern(5, 1000)...))
	failSnapfs(t, "broken.qcow2", "import", broken, filepath.Join(vm, "new.img"))
	failSnapfs(t, "none.img", "export", filepath.Join(vm, "none.img"), filepath.Join(work, "out.raw"))
	failSnapfs(t, "none", "export", filepath.Join(vm, "raw.img@none"), filepath.Join(work, "out.raw"))
	require.Len(t, names(t, vm), 5)
	require.NoFileExists(t, filepath.Join(work, "out.raw"))
}

// TestVerifyUnderSnapshots has fio write and verify while snapshots of the same
// disk come and go, and their blocks are reclaimed under it.
func TestVerifyUnderSnapshots(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	disk := m.disk("vm", "disk.img", 96<<20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fio := exec.CommandContext(ctx, "fio", "--name=verify", "--filename="+disk, "--size=96M", "--rw=randrw",
		"--bsrange=512-64k", "--bs_unaligned=0", "--blockalign=512", "--ioengine=libaio", "--direct=1", "--iodepth=16",
		"--verify=crc32c", "--verify_fatal=1", "--verify_backlog=512", "--loops=4", "--fsync=64", "--randseed=1")
	fio.Dir = t.TempDir() // where it writes its state
	done := make(chan error, 1)
	var out []byte
	go func() {
		var err error
		out, err = fio.CombinedOutput()
		done <- err
	}()
	rounds := 0
	for running := true; running; rounds++ {
		select {
		case err := <-done:
			require.NoError(t, err, "%s", out)
			running = false
		default:
		}
		mustCommand(t, vm, "create", fmt.Sprint("s", rounds))
		if rounds >= 3 { // a few stay, the oldest goes
			mustCommand(t, vm, "delete", fmt.Sprint("s", rounds-3))
		}
	}
	require.Greater(t, rounds, 3)
	require.Contains(t, string(out), "err= 0")
	before := run(t, "sha256sum", snapshotPath(vm, fmt.Sprint("s", rounds-1), "disk.img"))
	m.remount()
	after := run(t, "sha256sum", disk)
	require.Equal(t, strings.Fields(before)[0], strings.Fields(after)[0])
}
