package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modules are the kernel modules that the guest needs; modprobe knows what they
// need in turn.
var modules = []string{"virtio_pci", "virtio_console", "virtio_blk", "ext4", "crc32c_generic"}

// kernelFiles returns a directory with Debian's kernel, vmlinuz, and of its
// modules those that the guest needs, below lib/modules. It is filled by the
// first who asks, and kept.
func kernelFiles(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(cache, "kernel")
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	tmp, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := unpackKernel(ctx, tmp); err != nil {
		return "", err
	}
	return dir, os.Rename(filepath.Join(tmp, "kernel"), dir)
}

// cacheDir is $SNAPFS_CACHE, or snapfs in the user's cache directory.
func cacheDir() (string, error) {
	dir := os.Getenv("SNAPFS_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = os.TempDir() // no home directory
		}
		dir = filepath.Join(base, "snapfs")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lock makes other processes wait until unlock is called.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// unpackKernel downloads the kernel's package and leaves in tmp/kernel what
// kernelFiles promises.
func unpackKernel(ctx context.Context, tmp string) error {
	pkg, err := downloadKernel(ctx, tmp)
	if err != nil {
		return err
	}
	all := filepath.Join(tmp, "all")
	if _, err := command(ctx, tmp, "dpkg-deb", "-x", pkg, all); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(all, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("kernel package %s: %d kernels in it", filepath.Base(pkg), len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if _, err := command(ctx, tmp, "depmod", "-b", all, release); err != nil {
		return err
	}
	kernel := filepath.Join(tmp, "kernel")
	for _, name := range modules {
		out, err := command(ctx, tmp, "modprobe", "-d", all, "-S", release, "--show-depends", name)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) { // "insmod /…/x.ko", or "builtin x"
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod "); ok {
				if err := copyFile(path, filepath.Join(kernel, strings.TrimPrefix(path, all))); err != nil {
					return err
				}
			}
		}
	}
	if _, err := command(ctx, tmp, "depmod", "-b", kernel, release); err != nil {
		return err
	}
	return copyFile(images[0], filepath.Join(kernel, "vmlinuz"))
}

// downloadKernel fetches the package that linux-image-amd64 stands for. Package
// lists may be missing or out of date; then they are refreshed once.
func downloadKernel(ctx context.Context, tmp string) (string, error) {
	fetch := func() (string, error) {
		out, err := command(ctx, tmp, "apt-cache", "depends", "--important", "linux-image-amd64")
		if err != nil {
			return "", err
		}
		_, after, found := strings.Cut(out, "Depends: ")
		if !found {
			return "", errors.New("apt knows no linux-image-amd64")
		}
		name, _, _ := strings.Cut(after, "\n")
		if _, err := command(ctx, tmp, "apt-get", "download", name); err != nil {
			return "", err
		}
		debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
		if err != nil || len(debs) != 1 {
			return "", fmt.Errorf("apt-get download %s: %d packages came", name, len(debs))
		}
		return debs[0], nil
	}
	pkg, err := fetch()
	if err == nil {
		return pkg, nil
	}
	if _, err := command(ctx, tmp, "apt-get", "update"); err != nil {
		return "", err
	}
	return fetch()
}

// command runs a program in dir and returns its standard output.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
