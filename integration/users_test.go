package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// Two owners of VMs; neither is root.
const owner, stranger = 1001, 1002

// asUser runs a shell script as somebody, who has no other groups.
func asUser(uid uint32, script string) (string, error) {
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// may is for scripts that must succeed, mayNot for those that must be refused.
func may(t *testing.T, uid uint32, script string) {
	t.Helper()
	out, err := asUser(uid, script)
	require.NoError(t, err, "%d: %s: %s", uid, script, out)
}

func mayNot(t *testing.T, uid uint32, why, script string) {
	t.Helper()
	out, err := asUser(uid, script)
	require.Error(t, err, "%d: %s: %s", uid, script, out)
	require.Contains(t, out, why, "%d: %s", uid, script)
}

// ownedVM makes a VM with a disk and a snapshot, all somebody's.
func (m *mount) ownedVM(name string, uid int, mode os.FileMode) string {
	m.t.Helper()
	vm := m.vm(name)
	disk := m.disk(name, "disk", 1<<20)
	require.NoError(m.t, os.Chown(disk, uid, uid))
	require.NoError(m.t, os.Chown(vm, uid, uid))
	mustCommand(m.t, vm, "create", "s")
	require.NoError(m.t, os.Chmod(vm, mode))
	return vm
}

// TestStrangers has somebody try all that there is on another's VM, which only
// its owner may enter.
func TestStrangers(t *testing.T) {
	m := newMount(t)
	vm := m.ownedVM("web", owner, 0o700)
	m.ownedVM("own", stranger, 0o700)
	const denied = "Permission denied"
	inside := []string{"disk", ".snapshots/s/disk", ".snapshots/s/snapshot.json"}
	for _, file := range []string{"list", "tree", "status", "log", "policy", "create", "delete", "clone"} {
		inside = append(inside, filepath.Join(".snapshots", file))
	}
	for _, file := range inside {
		may(t, owner, "cat "+filepath.Join(vm, file)+" >/dev/null")
		mayNot(t, stranger, denied, "cat "+filepath.Join(vm, file))
		mayNot(t, stranger, denied, "echo x >"+filepath.Join(vm, file))
	}
	for _, script := range []string{
		"ls %[1]s", "ls %[1]s/.snapshots", "ls %[1]s/.snapshots/s", "touch %[1]s/new", "rm -f %[1]s/disk", "mv %[1]s/disk %[1]s/other",
		"truncate -s 0 %[1]s/disk", "mkdir %[1]s/.snapshots/new", "rmdir %[1]s/.snapshots/s", "mv %[1]s/.snapshots/s %[1]s/.snapshots/t",
		"mv %[1]s/disk %[2]s/own/disk2", "mv %[1]s %[2]s/other", "rmdir %[1]s", "mkdir %[2]s/new", "touch %[2]s/new", "rmdir %[2]s/own",
		"cat %[2]s/.snapshots/status", "cat %[2]s/.snapshots/list", "cat %[2]s/.snapshots/log", "echo >%[2]s/.snapshots/scrub", "echo 2 >%[2]s/.snapshots/format",
		"ls %[3]s", "cat %[3]s/FORMAT",
	} {
		mayNot(t, stranger, denied, fmt.Sprintf(script, vm, m.dir, m.store))
	}
	for _, script := range []string{"chmod 777 %[1]s", "chown %[3]d %[1]s", "touch -d 2020-01-01 %[1]s", "chmod 777 %[2]s"} {
		mayNot(t, stranger, "not permitted", fmt.Sprintf(script, vm, m.dir, stranger))
	}
	program := filepath.Join(filepath.Dir(m.store), "snapfs") // where everybody gets at it
	run(t, "cp", daemon.Binary, program)
	for _, command := range []string{"list", "tree", "log", "status"} {
		mayNot(t, stranger, vm+": permission denied", program+" "+command+" "+vm)
	}
	may(t, stranger, "ls "+m.dir) // that there is such a VM is no secret
	require.Equal(t, []string{"own", "web"}, names(t, m.dir))
	require.Equal(t, []string{"s"}, snapshotNames(t, vm))
	require.Equal(t, []string{"disk"}, names(t, vm))

	// What was open to all when a snapshot was made is as closed as its VM is now.
	require.NoError(t, os.Chmod(vm, 0o755))
	mayNot(t, stranger, denied, "cat "+filepath.Join(vm, ".snapshots", "list"))
	may(t, stranger, "cat "+snapshotPath(vm, "s", "disk")+" >/dev/null")
	require.NoError(t, os.Chmod(vm, 0o700))
	mayNot(t, stranger, denied, "cat "+snapshotPath(vm, "s", "disk"))
}

// TestOwners is what an owner may do with a VM, and what is root's alone.
func TestOwners(t *testing.T) {
	m := newMount(t)
	vm := m.ownedVM("web", owner, 0o700)
	control := func(file string) string { return snapshotPath(vm, file) }
	for file, mode := range map[string]os.FileMode{"create": 0o600, "revert": 0o600, "policy": 0o600, "tree": 0o400, "log": 0o400} {
		info, err := os.Stat(control(file))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), file)
		require.EqualValues(t, owner, info.Sys().(*syscall.Stat_t).Uid, file)
	}
	may(t, owner, "echo mine >"+control("create"))
	may(t, owner, "echo mine >"+control("revert"))
	may(t, owner, "touch "+filepath.Join(vm, "nvram"))

	// What runs or is reached on the host, and new VMs.
	for _, policy := range []string{
		`{"quiesce": {"pre": ["/bin/true"]}}`, `{"quiesce": {"post": ["/bin/true"]}}`,
		`{"quiesce": {"agent": "/run/x"}}`, `{"quiesce": {"qmp": "libvirt:other"}}`,
	} {
		mayNot(t, owner, "not permitted", fmt.Sprintf("echo '%s' | tee %s", policy, control("policy")))
	}
	may(t, owner, fmt.Sprintf(`echo '{"limit": {"snapshots": 9}, "quiesce": {"mountpoints": ["/mnt"]}}' >%s`, control("policy")))
	mustCommand(t, vm, "policy", `{"quiesce": {"mode": "agent", "agent": "/nowhere", "pre": ["/bin/true"]}}`)
	mayNot(t, owner, "not permitted", "echo '{}' | tee "+control("policy")) // root's keys would go
	mustCommand(t, vm, "policy", "{}")
	mayNot(t, owner, "Permission denied", "echo 's to=web2' | tee "+control("clone"))
	require.Equal(t, []string{"web"}, names(t, m.dir))

	// Names stay names, whoever gives them.
	for _, name := range []string{"../x", "a/b", "..", "/tmp/x", "-rf", ".snapshots", "$(touch x)/", `"-x"`, "libvirt:-c"} {
		_, err := command(t, vm, "clone", fmt.Sprintf(`{"name": "s", "to": %q}`, name))
		if err == nil {
			require.Equal(t, "libvirt:-c", name) // is one
			continue
		}
		require.Equal(t, syscall.EINVAL, err, name)
		failCommand(t, syscall.EINVAL, vm, "rename", fmt.Sprintf(`{"name": "s", "to": %q}`, name))
	}
	for _, address := range []string{"libvirt:", "libvirt:-x", "libvirt:--help", "-x", "relative"} {
		failCommand(t, syscall.EINVAL, vm, "policy", fmt.Sprintf(`{"quiesce": {"mode": "agent", "agent": %q}}`, address))
	}
	layers, err := os.ReadDir(filepath.Join(m.store, "layers"))
	require.NoError(t, err)
	for _, file := range layers {
		require.Regexp(t, "^[0-9a-f]{16}$", file.Name())
	}

	// A program in the mount gets nobody's rights but those of who starts it.
	id := filepath.Join(vm, "id")
	require.NoError(t, os.Chmod(vm, 0o755))
	run(t, "cp", "/usr/bin/id", id)
	require.NoError(t, os.Chmod(id, 0o4755))
	out, err := asUser(stranger, id+" -u")
	require.NoError(t, err, out)
	require.Equal(t, fmt.Sprint(stranger), strings.TrimSpace(out))
	mustCommand(t, vm, "create", "setuid")
	out, err = asUser(stranger, snapshotPath(vm, "setuid", "id")+" -u")
	require.NoError(t, err, out)
	require.Equal(t, fmt.Sprint(stranger), strings.TrimSpace(out))
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(m.dir, &st))
	require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV, st.Flags&(unix.ST_NOSUID|unix.ST_NODEV))
}

// TestLogsApart has an owner fill the log of a VM with whatever is long: another
// VM's log is as it was, also for the next daemon, and none grows without end.
func TestLogsApart(t *testing.T) {
	m := newMount(t)
	quiet := m.ownedVM("quiet", owner, 0o700)
	noisy := m.ownedVM("noisy", stranger, 0o700)
	f := open(t, snapshotPath(noisy, "create"), os.O_WRONLY)
	long := []byte(strings.Repeat("x", 60_000))
	for range 1100 {
		_, err := f.Write(long)
		require.ErrorIs(t, err, syscall.EINVAL)
	}
	require.NoError(t, f.Close())
	require.Less(t, len(readFile(t, snapshotPath(noisy, "log"))), 2<<20)
	require.Contains(t, string(readFile(t, snapshotPath(quiet, "log"))), "create vm=quiet snapshot=s")
	m.remount()
	require.Contains(t, string(readFile(t, snapshotPath(quiet, "log"))), "create vm=quiet snapshot=s")
}

// TestOpenFilesApart has an owner open more files than the mount has room for:
// others can open theirs.
func TestOpenFilesApart(t *testing.T) {
	m := newMount(t)
	quiet := m.ownedVM("quiet", owner, 0o700)
	greedy := m.ownedVM("greedy", stranger, 0o700)
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max}))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	var err error
	for err == nil && len(fds) < 70_000 {
		var fd int
		for _, file := range []string{"disk", ".snapshots/list", ".snapshots/s/disk"} {
			if fd, err = unix.Open(filepath.Join(greedy, file), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				fds = append(fds, fd)
			}
		}
	}
	require.Equal(t, unix.ENFILE, err)
	may(t, owner, "cat "+filepath.Join(quiet, "disk")+" >/dev/null && echo x >"+snapshotPath(quiet, "create"))
	for _, fd := range fds {
		unix.Close(fd)
	}
	fds = nil
	require.Eventually(t, func() bool { _, err := os.ReadFile(filepath.Join(greedy, "disk")); return err == nil }, patience, patience/1000)
}

// TestMountOfUser: who is not root mounts for himself alone.
func TestMountOfUser(t *testing.T) {
	const nobody = 65534 // whom every host knows by name
	base := t.TempDir()
	for _, dir := range []string{base, filepath.Dir(base)} {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	// As a host's /dev/fuse is, for everybody.
	fuse := filepath.Join(base, "fuse")
	require.NoError(t, unix.Mknod(fuse, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))))
	require.NoError(t, os.Chmod(fuse, 0o666))
	run(t, "mount", "--bind", fuse, "/dev/fuse")
	t.Cleanup(func() { _ = unix.Unmount("/dev/fuse", unix.MNT_DETACH) })
	home := filepath.Join(base, "home")
	dir := filepath.Join(home, "mnt")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.Chown(home, nobody, nobody))
	require.NoError(t, os.Chown(dir, nobody, nobody))
	program := filepath.Join(base, "snapfs")
	run(t, "cp", daemon.Binary, program)

	store := filepath.Join(home, "store")
	may(t, nobody, fmt.Sprintf("%s mount %s %s", program, store, dir))
	t.Cleanup(func() { _, _ = asUser(nobody, "fusermount3 -u -z "+dir) })
	may(t, nobody, fmt.Sprintf("mkdir %[1]s/web && echo x >%[1]s/web/disk && echo s >%[1]s/web/.snapshots/create && cat %[1]s/web/.snapshots/s/disk", dir))
	mayNot(t, stranger, "Permission denied", "ls "+dir)
	mayNot(t, stranger, "Permission denied", "ls "+store)
	_, err := os.ReadDir(dir)
	require.ErrorIs(t, err, syscall.EACCES, "not even root")
	may(t, nobody, program+" umount "+dir)
	may(t, nobody, program+" check "+store)

	// Signals, of which the second detaches the mount.
	may(t, nobody, fmt.Sprintf("%s mount %s %s", program, store, dir))
	may(t, nobody, fmt.Sprintf(`
		await() { for i in $(seq 600); do eval "$1" && return; sleep 0.1; done; echo "$1"; exit 1; }
		pid=$(sed 's/.*"supervisor_pid":\([0-9]*\).*/\1/' %[1]s/.snapshots/status)
		exec 9<>%[1]s/web/disk
		kill $pid; await 'grep -q "asked to end" %[2]s/log'
		kill $pid; await '! grep -q " %[1]s " /proc/mounts'
		echo y >&9 && exec 9>&-; await '! kill -0 $pid'`, dir, store))
}
