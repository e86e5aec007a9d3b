package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sparseDisk is 8 MiB of which only a little is there.
func sparseDisk() []byte {
	disk := make([]byte, 8<<20)
	copy(disk[4096:], bytes.Repeat([]byte("abc"), 5000))
	copy(disk[7<<20:], "the end")
	return disk
}

func qemuImgRun(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(qemuImg, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestImportAndExport(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "")
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(raw, sparseDisk(), 0o600))
	for _, format := range []string{"qcow2", "vmdk", "vdi", "vhdx", "raw"} {
		t.Run(format, func(t *testing.T) {
			image := filepath.Join(dir, "image."+format)
			qemuImgRun(t, "convert", "-O", format, raw, image)
			file := filepath.Join(vm, format+".img")
			done(t, "import", image, file)
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			require.True(t, bytes.Equal(sparseDisk(), got))
			var st unix.Stat_t
			require.NoError(t, unix.Stat(file, &st))
			require.LessOrEqual(t, st.Blocks*512, int64(64<<10), "it stays sparse")

			back := filepath.Join(dir, "back."+format)
			done(t, "export", file, back)
			qemuImgRun(t, "compare", "-f", "raw", "-F", format, raw, back)
		})
	}
	require.Empty(t, done(t, "list", vm, "-H"), "temporary snapshots are gone")
	require.Empty(t, leftovers(t, vm))
	require.Empty(t, leftovers(t, dir))
}

// leftovers lists what an import or export was about to write.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, ".part-*"))
	require.NoError(t, err)
	return parts
}

func TestImportReplacesOnlyWhenTold(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "old")
	disk := filepath.Join(vm, "root.img")
	image := filepath.Join(t.TempDir(), "image.raw")
	require.NoError(t, os.WriteFile(image, sparseDisk(), 0o600))
	require.Contains(t, refused(t, "import", image, disk), "--force")
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	require.NoError(t, err)
	require.Contains(t, refused(t, "import", "--force", image, disk), "stop the guest first")
	require.NoError(t, f.Close())
	require.Equal(t, "old", start(t, disk, 3))
	require.NoError(t, os.Chmod(disk, 0o640))
	require.NoError(t, os.Chown(disk, 64055, 64055))
	done(t, "import", "--force", image, disk)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(disk, &st))
	require.EqualValues(t, unix.S_IFREG|0o640, st.Mode)
	require.EqualValues(t, 64055, st.Uid)
	got, err := os.ReadFile(disk)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sparseDisk(), got))
}

// Firmware state and settings are files too, of any size.
func TestOddSizes(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "")
	dir := t.TempDir()
	odd := filepath.Join(dir, "nvram.raw")
	content := bytes.Repeat([]byte("0123456789"), 777)
	require.NoError(t, os.WriteFile(odd, content, 0o600))
	done(t, "import", odd, filepath.Join(vm, "nvram.fd"))
	done(t, "export", filepath.Join(vm, "nvram.fd"), filepath.Join(dir, "back"), "-O", "raw")
	for _, path := range []string{filepath.Join(vm, "nvram.fd"), filepath.Join(dir, "back")} {
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(content), string(got), path)
	}
}

func TestExportOfASnapshot(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	done(t, "create", vm, "base")
	write(t, filepath.Join(vm, "root.img"), "later")
	image := filepath.Join(t.TempDir(), "image.raw")
	done(t, "export", filepath.Join(vm, "root.img@base"), image)
	require.Equal(t, "first", start(t, image, 5))
	require.Contains(t, refused(t, "export", filepath.Join(vm, "root.img"), image), "--force")
	done(t, "export", "--force", filepath.Join(vm, "root.img"), image)
	require.Equal(t, "later", start(t, image, 5))
	require.Contains(t, refused(t, "export", filepath.Join(vm, "root.img@none"), image, "--force"), "no such file")
	require.Contains(t, refused(t, "export", filepath.Join(vm, "none.img"), image, "--force"), "no such file")
}

// During a preview no snapshot can be taken, so that nobody may write.
func TestExportDuringAPreview(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	disk := filepath.Join(vm, "root.img")
	done(t, "create", vm, "base")
	done(t, "preview", vm, "base")
	write(t, disk, "tried")
	image := filepath.Join(t.TempDir(), "image.raw")
	done(t, "export", disk, image)
	require.Equal(t, "tried", start(t, image, 5))
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	require.NoError(t, err)
	require.Contains(t, refused(t, "export", "--force", disk, image), "previews base")
	require.NoError(t, f.Close())
	slowQemuImg(t)
	require.NoError(t, os.WriteFile(disk, bytes.Repeat([]byte("data"), 1<<18), 0o600))
	dir := t.TempDir()
	exit := make(chan int)
	var stderr bytes.Buffer
	go func() {
		exit <- run(context.Background(), []string{"export", disk, filepath.Join(dir, "out.raw")}, nil, io.Discard, &stderr)
	}()
	require.Eventually(t, func() bool { return len(leftovers(t, dir)) > 0 }, patience, 10*time.Millisecond)
	write(t, disk, "again")
	require.Equal(t, exitFailed, <-exit)
	require.Contains(t, stderr.String(), "wrote to it meanwhile")
	require.NoFileExists(t, filepath.Join(dir, "out.raw"))
	require.Empty(t, leftovers(t, dir))
}

// What fails leaves nothing behind.
func TestImageFailures(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.qcow2")
	require.NoError(t, os.WriteFile(broken, []byte("no qcow2"), 0o600))
	refused(t, "import", broken, filepath.Join(vm, "new.img"))
	refused(t, "import", filepath.Join(dir, "missing.raw"), filepath.Join(vm, "new.img"))
	refused(t, "export", filepath.Join(vm, "root.img"), filepath.Join(dir, "out"), "-O", "no-such-format")

	require.NoFileExists(t, filepath.Join(vm, "new.img"))
	require.NoFileExists(t, filepath.Join(dir, "out"))
	require.Empty(t, done(t, "list", vm, "-H"))
	require.Empty(t, leftovers(t, vm))
	require.Empty(t, leftovers(t, dir))
}

// An image that lost its end is refused, whatever the format, and so is one that builds on such an image.
func TestImportOfATruncatedImage(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "")
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(raw, bytes.Repeat([]byte("data"), 1<<20), 0o600))
	for _, format := range []string{"qcow2", "vmdk", "vdi", "vhdx"} {
		image := filepath.Join(dir, "image."+format)
		qemuImgRun(t, "convert", "-O", format, raw, image)
		size := func() int64 {
			st, err := os.Stat(image)
			require.NoError(t, err)
			return st.Size()
		}
		done(t, "import", "--force", image, filepath.Join(vm, "new.img"))
		require.NoError(t, os.Truncate(image, size()/2))
		require.Regexp(t, "incomplete|truncated", refused(t, "import", image, filepath.Join(vm, format+".img")))
	}
	top := filepath.Join(dir, "top.qcow2")
	qemuImgRun(t, "create", "-f", "qcow2", "-F", "vdi", "-b", filepath.Join(dir, "image.vdi"), top)
	require.Contains(t, refused(t, "import", top, filepath.Join(vm, "top.img")), "image.vdi is incomplete")
	require.Empty(t, leftovers(t, vm))
	entries, err := os.ReadDir(vm)
	require.NoError(t, err)
	require.Len(t, entries, 2, "root.img and new.img")
}

// slowQemuImg puts a qemu-img into PATH that converts so slowly that it can be interrupted.
func slowQemuImg(t *testing.T) {
	t.Helper()
	real, err := exec.LookPath(qemuImg)
	require.NoError(t, err)
	dir := t.TempDir()
	script := "#!/bin/sh\nif [ \"$1\" = convert ]; then shift; set -- convert -r 64K \"$@\"; fi\nexec " + real + " \"$@\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, qemuImg), []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Nor does what is interrupted.
func TestInterruptedImages(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	dir := t.TempDir()
	disk := filepath.Join(vm, "root.img")
	require.NoError(t, os.WriteFile(disk, bytes.Repeat([]byte("data"), 1<<20), 0o600))
	slowQemuImg(t)
	for _, c := range []struct {
		args    []string
		writing string // the directory it writes to
	}{
		{[]string{"import", disk, filepath.Join(vm, "new.img")}, vm},
		{[]string{"export", disk, filepath.Join(dir, "out.raw")}, dir},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		exit := make(chan int)
		var stderr bytes.Buffer
		go func() { exit <- run(ctx, c.args, nil, io.Discard, &stderr) }()
		require.Eventually(t, func() bool { return len(leftovers(t, c.writing)) > 0 }, patience, 10*time.Millisecond)
		cancel()
		require.Equal(t, exitFailed, <-exit)
		require.Contains(t, stderr.String(), "interrupted")
		require.Empty(t, leftovers(t, c.writing))
		require.Empty(t, done(t, "list", vm, "-H"), "the temporary snapshot is gone too")
	}
	require.NoFileExists(t, filepath.Join(vm, "new.img"))
	require.NoFileExists(t, filepath.Join(dir, "out.raw"))
}
