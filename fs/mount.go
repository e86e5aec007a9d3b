package fs

// Mounting: how /dev/fuse gets to a directory, and the refusals by name.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fsType is what mount(8) and /proc/mounts show.
const fsType = "snapfs"

// checkMountpoint refuses, by name, what can't be mounted on, and returns its absolute path.
func checkMountpoint(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("mountpoint %s: %w", dir, err)
	}
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
		return "", fmt.Errorf("mountpoint %s: a dead mount is in the way; clear it with: snapfs umount %[1]s", path)
	case err != nil:
		return "", fmt.Errorf("mountpoint %s: %w", path, errors.Unwrap(err))
	case isSnapfs(path):
		return "", fmt.Errorf("mountpoint %s: snapfs is mounted there already", path)
	case len(entries) > 0:
		return "", fmt.Errorf("mountpoint %s is not empty", path)
	}
	return path, nil
}

// isSnapfs says whether path is where a snapfs is mounted.
func isSnapfs(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && unescapeMount(fields[4]) == real && strings.Contains(line, " - fuse."+fsType+" ") {
			return true
		}
	}
	return false
}

// unescapeMount undoes the octal escapes of /proc/self/mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mountFUSE mounts on dir and returns the session's first descriptor.
func mountFUSE(source, dir string) (int, error) {
	if os.Geteuid() != 0 {
		return mountByHelper(source, dir)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w (is the kernel's fuse module loaded?)", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxIO)
	if err := unix.Mount(source, dir, "fuse."+fsType, unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount on %s: %w", dir, err)
	}
	return fd, nil
}

// mountByHelper lets the setuid fusermount3 mount, which hands the descriptor over a socket.
func mountByHelper(source, dir string) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3")
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	options := fmt.Sprintf("fsname=%s,subtype=%s,default_permissions,max_read=%d", escape.Replace(source), fsType, maxIO)
	cmd := exec.Command("fusermount3", "-o", options, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.CombinedOutput()
	theirs.Close()
	if err != nil {
		return -1, fmt.Errorf("mount on %s: fusermount3: %w: %s", dir, err, strings.TrimSpace(string(out)))
	}
	return receiveDescriptor(pair[0])
}

// receiveDescriptor takes the one descriptor that the helper sends.
func receiveDescriptor(socket int) (int, error) {
	data, control := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive from fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("fusermount3 sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("fusermount3 sent no descriptor")
	}
	return fds[0], nil
}

// unmountFUSE ends the mount, or returns EBUSY when somebody is in it.
func unmountFUSE(dir string) error {
	if os.Geteuid() == 0 {
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	if out, err := exec.Command("fusermount3", "-u", "--", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}
