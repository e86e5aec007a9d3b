package integration

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapfs/snapfs/integration/daemon"
	"github.com/snapfs/snapfs/integration/guest"
	"github.com/stretchr/testify/require"
)

// startAgent runs the real guest agent in a guest.
func startAgent(t testing.TB, g *guest.Guest) {
	t.Helper()
	inGuest(t, g, `grep -q guest_agent /sys/class/virtio-ports/vport0p2/name
		qemu-ga -m virtio-serial -p /dev/vport0p2 -t /tmp -f /tmp/agent.pid >/tmp/agent.log 2>&1 &`)
}

// features are those in the superblock of an ext4 image.
func features(t testing.TB, image string) string {
	t.Helper()
	for line := range strings.Lines(run(t, "dumpe2fs", "-h", image)) {
		if rest, ok := strings.CutPrefix(line, "Filesystem features:"); ok {
			return rest
		}
	}
	require.FailNow(t, "no ext4", image)
	return ""
}

// TestQuiesce takes snapshots under a guest that writes and syncs all the time.
// A quiesced one is clean: nothing is left for its journal to replay. The
// others need their journal.
func TestQuiesce(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	w := startWriter(t, m.disk("busy", "disk.img", 128<<20))
	startAgent(t, w.Guest)
	w.goesOn()
	mustSnapfs(t, "policy", vm, "set", "quiesce.agent="+w.AgentPath())
	check := mustSnapfs(t, "quiesce", vm, "--check")
	require.Contains(t, check, "freeze yes, freeze of chosen mountpoints yes")
	require.Contains(t, check, "/mnt")

	require.Equal(t, "crash", mustCommand(t, vm, "create", "plain").Snapshot.Consistency)
	require.Contains(t, features(t, snapshotPath(vm, "plain", "disk.img")), "needs_recovery")
	for _, policy := range [][]string{
		{"quiesce.mode=agent"}, {"quiesce.mode=agent-or-crash"}, {"quiesce.mountpoints=/mnt"},
	} {
		mustSnapfs(t, append([]string{"policy", vm, "set"}, policy...)...)
		least := w.goesOn()
		made := mustCommand(t, vm, "create", policy[0][strings.LastIndexAny(policy[0], "=/")+1:]).Snapshot
		require.Equal(t, "filesystem", made.Consistency, "%v", made.Warning)
		require.Nil(t, made.Warning)
		image := snapshotPath(vm, made.Name, "disk.img")
		require.NotContains(t, features(t, image), "needs_recovery")
		run(t, "e2fsck", "-f", "-n", image)
		require.GreaterOrEqual(t, countSound(t, image), least)
		w.goesOn()
	}
	log := string(readFile(t, filepath.Join(vm, ".snapshots", "log")))
	require.Contains(t, log, "guest-held vm=busy snapshot=agent mode=agent ms=")

	status := func() string { return string(readFile(t, filepath.Join(vm, ".snapshots", "status"))) }
	require.Contains(t, status(), `"compliant":true`)
	inGuest(t, w.Guest, "killall -9 qemu-ga")
	mustSnapfs(t, "policy", vm, "set", "quiesce.timeout=1s") // who is asked at once
	requireLog(t, vm, "not-compliant vm=busy")
	require.Regexp(t, `"compliant":false,"reasons":\["guest agent .*no answer in time"\]`, status())
	startAgent(t, w.Guest)
	mustSnapfs(t, "policy", vm, "set", "quiesce.timeout=10s")
	requireLog(t, vm, " compliant vm=busy")
	require.Contains(t, status(), `"compliant":true`)
	require.NoError(t, w.Quit(t.Context()))
}

// agentProxy stands between the daemon and an agent, and keeps thaw to itself
// for as long as it is told.
type agentProxy struct {
	path string

	mu     sync.Mutex
	onThaw func() // once; nil: thaw passes
}

func newAgentProxy(t *testing.T, agent string, onThaw func()) *agentProxy {
	dir, err := os.MkdirTemp("", "proxy") // a socket's path has to be short
	require.NoError(t, err)
	p := &agentProxy{path: filepath.Join(dir, "agent"), onThaw: onThaw}
	l, err := net.Listen("unix", p.path)
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(conn, agent) // one at a time, as the agent's port does
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serving.Wait()
		require.NoError(t, os.RemoveAll(dir))
	})
	return p
}

func (p *agentProxy) serve(daemon net.Conn, agent string) {
	defer daemon.Close()
	port, err := net.Dial("unix", agent)
	if err != nil {
		return
	}
	defer port.Close()
	go func() {
		defer daemon.Close()
		b := make([]byte, 4096)
		for {
			n, err := port.Read(b)
			if err != nil {
				return
			}
			if _, err := daemon.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	for lines := bufio.NewScanner(daemon); lines.Scan(); {
		p.mu.Lock()
		keep := p.onThaw
		if strings.Contains(lines.Text(), "guest-fsfreeze-thaw") {
			p.onThaw = nil
		} else {
			keep = nil
		}
		p.mu.Unlock()
		if keep != nil {
			keep()
			return
		}
		if _, err := port.Write(append(lines.Bytes(), '\n')); err != nil {
			return
		}
	}
}

// TestAgentKilledWhileFrozen: there is no snapshot, and the guest goes on as
// soon as its agent is back.
func TestAgentKilledWhileFrozen(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	w := startWriter(t, m.disk("busy", "disk.img", 128<<20))
	startAgent(t, w.Guest)
	w.goesOn()
	killed := make(chan error, 1)
	p := newAgentProxy(t, w.AgentPath(), func() {
		_, err := w.Run(t.Context(), "killall -9 qemu-ga")
		killed <- err
	})
	mustSnapfs(t, "policy", vm, "set", "quiesce.mode=agent", "quiesce.timeout=3s", "quiesce.agent="+p.path)
	failCommand(t, syscall.ETIMEDOUT, vm, "create", "one")
	require.NoError(t, <-killed)
	require.Empty(t, list(t, vm))
	startAgent(t, w.Guest)
	w.goesOn()
	requireLog(t, vm, "thawed vm=busy")
	require.Equal(t, "filesystem", mustCommand(t, vm, "create", "two").Snapshot.Consistency)
	run(t, "e2fsck", "-f", "-n", snapshotPath(vm, "two", "disk.img"))
	require.NoError(t, w.Quit(t.Context()))
}

// TestDaemonKilledWhileFrozen: the next daemon thaws the guest.
func TestDaemonKilledWhileFrozen(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	g := startGuest(t, t.TempDir(), "busy", m.disk("busy", "disk.img", 64<<20))
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo one >/mnt/one && sync")
	startAgent(t, g)
	frozen, killed := make(chan struct{}), make(chan struct{})
	p := newAgentProxy(t, g.AgentPath(), func() { close(frozen); <-killed })
	mustSnapfs(t, "policy", vm, "set", "quiesce.mode=agent", "quiesce.agent="+p.path)
	create := exec.Command(daemon.Binary, "create", vm, "one")
	require.NoError(t, create.Start())
	<-frozen
	m.kill()
	close(killed)
	require.Error(t, create.Wait(), "the daemon died meanwhile")
	require.Len(t, names(t, filepath.Join(m.store, "frozen")), 1)

	m.start()
	requireLog(t, vm, "thawed vm=busy")
	require.Empty(t, names(t, filepath.Join(m.store, "frozen")))
	for _, s := range list(t, vm) { // what was sealed in time is there, and says what it is worth
		require.Equal(t, "crash", s.Consistency)
		require.Contains(t, *s.Warning, "the daemon ended before")
	}
	// The disk went with the first daemon, so this fails; in a frozen file system it would never end.
	inGuest(t, g, "echo two >/mnt/two || true")
	g.Kill()
}

// requireLog waits for something in a VM's log.
func requireLog(t *testing.T, vm, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return strings.Contains(string(readFile(t, filepath.Join(vm, ".snapshots", "log"))), text)
	}, patience, 10*time.Millisecond, text)
}

// TestPause stops the machine through its monitor, which also tells of a disk
// that no snapshot has.
func TestPause(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	w := startWriter(t, m.disk("busy", "disk.img", 128<<20))
	least := w.goesOn()
	mustSnapfs(t, "policy", vm, "set", "quiesce.mode=pause", "quiesce.qmp="+w.MonitorPath())
	require.Contains(t, mustSnapfs(t, "quiesce", vm, "--check"), "machine running")
	made := mustCommand(t, vm, "create", "paused").Snapshot
	require.Equal(t, "crash", made.Consistency)
	require.Nil(t, made.Warning, "all disks are found in the VM's directory")
	requireLog(t, vm, "guest-held vm=busy snapshot=paused mode=pause ms=")
	w.goesOn()
	require.GreaterOrEqual(t, countSound(t, snapshotPath(vm, "paused", "disk.img")), least)

	_, err := w.Monitor("stop", nil)
	require.NoError(t, err)
	mustCommand(t, vm, "create", "stopped")
	state, err := w.Monitor("query-status", nil)
	require.NoError(t, err)
	require.Contains(t, string(state), `"paused"`, "who stood still before stands still after")
	_, err = w.Monitor("cont", nil)
	require.NoError(t, err)

	foreign := filepath.Join(t.TempDir(), "lun.img")
	writeFile(t, foreign, make([]byte, 1<<20))
	_, err = w.Monitor("blockdev-add", map[string]any{
		"node-name": "lun", "driver": "raw", "file": map[string]any{"driver": "file", "filename": foreign},
	})
	require.NoError(t, err)
	_, err = w.Monitor("device_add", map[string]any{"driver": "virtio-blk-pci", "drive": "lun", "id": "lun0"})
	require.NoError(t, err)
	failSnapfs(t, foreign, "create", vm, "foreign")
	mustSnapfs(t, "policy", vm, "set", "exclude=lun.img")
	mustSnapfs(t, "create", vm, "excluded")
	require.Equal(t, []string{"paused", "stopped", "excluded"}, snapshotNames(t, vm))
	require.NoError(t, w.Quit(t.Context()))
}
