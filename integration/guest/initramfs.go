package guest

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

//go:embed init.sh
var initScript []byte

// programs are taken from the host, with the libraries they are linked to.
var programs = []string{"busybox", "mke2fs", "e2fsck", "qemu-ga"}

// bootFiles returns the kernel and an initramfs, made in dir if it is not there.
func bootFiles(ctx context.Context, dir string) (kernel, initramfs string, err error) {
	files, err := kernelFiles(ctx)
	if err != nil {
		return "", "", err
	}
	initramfs = filepath.Join(dir, "initramfs")
	if _, err := os.Stat(initramfs); err != nil {
		if err := buildInitramfs(ctx, files, initramfs); err != nil {
			return "", "", fmt.Errorf("initramfs: %w", err)
		}
	}
	return filepath.Join(files, "vmlinuz"), initramfs, nil
}

func buildInitramfs(ctx context.Context, kernel, target string) error {
	root, err := os.MkdirTemp(filepath.Dir(target), "initramfs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	for _, dir := range []string{"bin", "dev", "etc", "mnt", "proc", "sbin", "sys", "tmp", "usr/bin", "usr/sbin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.CopyFS(filepath.Join(root, "lib", "modules"), os.DirFS(filepath.Join(kernel, "lib", "modules"))); err != nil {
		return err
	}
	for _, name := range programs {
		if err := copyProgram(ctx, name, root); err != nil {
			return err
		}
	}
	if err := copyFile("/etc/mke2fs.conf", filepath.Join(root, "etc", "mke2fs.conf")); err != nil {
		return err
	}
	if err := os.Symlink("mke2fs", filepath.Join(root, "bin", "mkfs.ext4")); err != nil {
		return err
	}
	if err := os.Symlink("/proc/mounts", filepath.Join(root, "etc", "mtab")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "init"), initScript, 0o755); err != nil {
		return err
	}
	archive := root + ".cpio" // then renamed, for another guest may start at the same time
	if _, err := command(ctx, root, "sh", "-c", `find . | cpio -o -H newc --quiet >"$1"`, "sh", archive); err != nil {
		return err
	}
	return os.Rename(archive, target)
}

var libraryPath = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// copyProgram copies a program of the host to root/bin, and its libraries to
// where the host has them.
func copyProgram(ctx context.Context, name, root string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := copyFile(path, filepath.Join(root, "bin", name)); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		return nil // a static program has none
	}
	for _, m := range libraryPath.FindAllStringSubmatch(string(out), -1) {
		if err := copyFile(m[1], filepath.Join(root, m[1])); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies content and mode, making directories as needed.
func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
