package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// manager does what systemd does for a service of Type=notify that may store
// descriptors: it notes what it is told, and hands them to the next process.
type manager struct {
	t      *testing.T
	socket *net.UnixConn

	mu    sync.Mutex // guards what follows
	said  []string
	names []string
	files []*os.File
}

func startManager(t *testing.T, address string) *manager {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	require.NoError(t, err)
	m := &manager{t: t, socket: socket}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.listen()
	}()
	t.Cleanup(func() {
		socket.Close()
		<-ended
		m.remove(func(string) bool { return true })
	})
	return m
}

func (m *manager) listen() {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253))
	for {
		n, r, _, _, err := m.socket.ReadMsgUnix(text, rights)
		if err != nil {
			return
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(rights[:r]); err == nil && len(messages) == 1 {
			fds, _ = unix.ParseUnixRights(&messages[0])
		}
		m.note(strings.Split(string(text[:n]), "\n"), fds)
	}
}

func (m *manager) note(lines []string, fds []int) {
	m.mu.Lock()
	m.said = append(m.said, lines...)
	remove, name := false, "stored"
	for _, line := range lines {
		remove = remove || line == "FDSTOREREMOVE=1"
		if given, ok := strings.CutPrefix(line, "FDNAME="); ok {
			name = given
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		m.names = append(m.names, name)
		m.files = append(m.files, os.NewFile(uintptr(fd), name))
	}
	m.mu.Unlock()
	if remove {
		m.remove(func(n string) bool { return n == name })
	}
}

// remove lets go of descriptors.
func (m *manager) remove(which func(name string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	var files []*os.File
	for i, name := range m.names {
		if which(name) {
			m.files[i].Close()
			continue
		}
		names, files = append(names, name), append(files, m.files[i])
	}
	m.names, m.files = names, files
}

// heard waits until the manager was told something, and forgets all up to then.
func (m *manager) heard(line string) {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for i, said := range m.said {
			if strings.HasPrefix(said, line) {
				m.said = m.said[i+1:]
				return true
			}
		}
		return false
	}, patience, time.Millisecond, line)
}

// stored is the names of what it keeps.
func (m *manager) stored() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.names...)
}

// command is a daemon under the manager, which goes on with what is stored.
func (m *manager) command(store, dir string) *exec.Cmd {
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" mount "$1" "$2" -f`, daemon.Binary, store, dir)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.socket.LocalAddr().String())
	if len(m.files) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprint("LISTEN_FDS=", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
		cmd.ExtraFiles = m.files
	}
	return cmd
}

// newManagedMount is newMount under a manager.
func newManagedMount(t *testing.T, address string) (*mount, *manager) {
	manager := startManager(t, address)
	m := newMount(t)
	m.stop()
	m.Daemon = daemon.StartCommand(t, manager.command(m.store, m.dir), m.dir)
	manager.heard("READY=1")
	manager.heard("STATUS=serving " + m.store)
	require.Greater(t, len(manager.stored()), 1)
	return m, manager
}

// TestManagedMountKilled has fio write, verify and flush while all processes of
// the mount are killed again and again: the service manager keeps what it lives on.
func TestManagedMountKilled(t *testing.T) {
	m, manager := newManagedMount(t, fmt.Sprintf("@snapfs-test-%d", os.Getpid()))
	m.vm("web")
	disk := m.disk("web", "disk.img", 0)
	kept := m.disk("web", "kept.img", 4096)
	open, err := os.OpenFile(kept, os.O_RDWR, 0)
	require.NoError(t, err)
	defer open.Close()
	said := startFio(disk)
	before := manager.stored()
	for i := range 4 {
		text := fmt.Sprint("write ", i)
		_, err := open.WriteAt([]byte(text), 0) // and no flush
		require.NoError(t, err)
		worker := m.Worker()
		if i%2 == 0 {
			m.Kill()
		} else { // the worker ends when it finds itself alone
			require.NoError(t, m.Cmd.Process.Kill())
			<-m.Exited
		}
		m.Daemon = daemon.StartCommand(t, manager.command(m.store, m.dir), m.dir)
		manager.heard("READY=1")
		require.NotEqual(t, worker, m.Worker())
		got := make([]byte, len(text))
		_, err = open.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		require.Equal(t, before, manager.stored())
	}
	require.NoError(t, <-said)
	require.Contains(t, string(readFile(t, snapshotPath(m.dir, "status"))), "the service manager kept it")
	mustSnapfs(t, "upgrade", m.dir)
	manager.heard("READY=1")
	require.NoError(t, open.Close())
	m.stop()
	manager.heard("STOPPING=1")
	manager.heard("FDSTOREREMOVE=1")
	require.Eventually(t, func() bool { return len(manager.stored()) == 0 }, patience, time.Millisecond)
}

// TestManagedMountOver unmounts while nobody serves: the next process closes the
// store with what was only written, and the one after it mounts.
func TestManagedMountOver(t *testing.T) {
	m, manager := newManagedMount(t, filepath.Join(t.TempDir(), "notify"))
	m.vm("web")
	writeFile(t, m.path("web", "disk.img"), []byte("not flushed"))
	m.kill()
	out, err := manager.command(m.store, m.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "closed "+m.store)
	manager.heard("FDSTOREREMOVE=1")
	require.Eventually(t, func() bool { return len(manager.stored()) == 0 }, patience, time.Millisecond)
	m.Daemon = daemon.StartCommand(t, manager.command(m.store, m.dir), m.dir)
	require.Equal(t, "not flushed", string(readFile(t, m.path("web", "disk.img"))))
}

// TestManagedMountOfAnother refuses descriptors of another mount, which wait for
// its own process, and mounts anew where only a part was stored.
func TestManagedMountOfAnother(t *testing.T) {
	m, manager := newManagedMount(t, filepath.Join(t.TempDir(), "notify"))
	m.vm("web")
	m.Kill()
	other := t.TempDir()
	out, err := manager.command(m.store, other).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "stop the service to let go of it")
	m.Daemon = daemon.StartCommand(t, manager.command(m.store, m.dir), m.dir)
	require.DirExists(t, m.path("web"))

	m.Kill()
	manager.remove(func(name string) bool { return strings.HasPrefix(name, "device") })
	m.Daemon = daemon.StartCommand(t, manager.command(m.store, m.dir), m.dir)
	require.DirExists(t, m.path("web"))
	manager.heard("FDSTOREREMOVE=1")
}
