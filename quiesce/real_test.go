package quiesce

// Against the programs themselves: qemu-ga running on this host, forbidden to freeze, and QEMU.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) {
	output := new(bytes.Buffer)
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, output)
		}
	})
}

// socketDir is for sockets, whose paths have to be short.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "quiesce")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// eventually waits for a program to come up.
func eventually(t *testing.T, try func() error) {
	var err error
	for range 1500 {
		if err = try(); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.NoError(t, err)
}

// hostAgent is a qemu-ga of this host that can neither freeze nor thaw.
func hostAgent(t *testing.T) string {
	dir := socketDir(t)
	path := filepath.Join(dir, "agent")
	start(t, "qemu-ga", "-m", "unix-listen", "-p", path, "-t", dir,
		"-b", "guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,guest-shutdown,guest-exec")
	eventually(t, func() error {
		a, err := DialAgent(t.Context(), path)
		if err == nil {
			a.Close()
		}
		return err
	})
	return path
}

func TestRealAgent(t *testing.T) {
	path := hostAgent(t)
	p := DefaultPolicy()
	p.Agent = path
	r, err := Check(t.Context(), p)
	require.NoError(t, err)
	require.Nil(t, r.QMP)
	require.Regexp(t, `^\d+\.\d+`, r.Agent.Version)
	require.False(t, r.Agent.Freeze, "it was forbidden to")
	require.False(t, r.Agent.Frozen)

	a, err := DialAgent(t.Context(), path)
	require.NoError(t, err)
	defer a.Close()
	info, err := a.Info(t.Context())
	require.NoError(t, err)
	require.Contains(t, info.Commands, "guest-sync-delimited")
	require.NotContains(t, info.Commands, "guest-fsfreeze-freeze")
}

// Whoever was there before left half a command, and answers. They are read here, for behind a socket, unlike behind a
// guest's port, SIGPIPE ends a qemu-ga that cannot give its answer to anybody.
func TestRealAgentOutOfStep(t *testing.T) {
	path := hostAgent(t)
	for _, left := range []string{
		`{"execute": "guest-in`,
		"garbage",
		"{\"execute\": \"guest-info\"}\n{\"execute\": \"guest-info\"}\n",
		"\xff\xff{{{{[[[[",
	} {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		_, err = conn.Write([]byte(left))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.UnixConn).CloseWrite())
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		a, err := DialAgent(t.Context(), path)
		require.NoError(t, err)
		already, err := a.Frozen(t.Context())
		require.NoError(t, err)
		require.False(t, already)
		a.Close()
	}
}

// machine is a QEMU with two monitors and one disk, that runs its firmware.
type machine struct{ qmp, other, disk string }

func startMachine(t *testing.T, args ...string) machine {
	dir := socketDir(t)
	m := machine{filepath.Join(dir, "qmp"), filepath.Join(dir, "other"), filepath.Join(dir, "disk")}
	require.NoError(t, os.WriteFile(m.disk, make([]byte, 1<<20), 0o600))
	start(t, "qemu-system-x86_64", append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-machine", "pc", "-m", "32",
		"-blockdev", "raw,node-name=d0,file.driver=file,file.filename=" + m.disk, "-device", "virtio-blk-pci,drive=d0",
		"-drive", "if=ide,media=cdrom,readonly=on,format=raw,file=" + m.disk + ",file.locking=off",
		"-qmp", "unix:" + m.qmp + ",server=on,wait=off", "-qmp", "unix:" + m.other + ",server=on,wait=off",
	}, args...)...)
	eventually(t, func() error {
		q, err := DialQMP(t.Context(), m.qmp)
		if err == nil {
			q.Close()
		}
		return err
	})
	return m
}

// ask asks on the second monitor.
func (m machine) ask(t *testing.T, f func(q *QMP)) {
	q, err := DialQMP(t.Context(), m.other)
	require.NoError(t, err)
	defer q.Close()
	f(q)
}

func (m machine) state(t *testing.T) (s RunState) {
	m.ask(t, func(q *QMP) {
		var err error
		s, err = q.Status(t.Context())
		require.NoError(t, err)
	})
	return s
}

// ram is the first MiB of a machine's memory.
func (m machine) ram(t *testing.T) []byte {
	path := m.disk + ".ram"
	m.ask(t, func(q *QMP) {
		args := map[string]any{"val": 0, "size": 1 << 20, "filename": path}
		require.NoError(t, q.Execute(t.Context(), "pmemsave", args, nil))
	})
	ram, err := os.ReadFile(path)
	require.NoError(t, err)
	return ram
}

func (m machine) policy(mode Mode) Policy {
	p := DefaultPolicy()
	p.Mode, p.QMP = mode, m.qmp
	return p
}

func TestRealMonitor(t *testing.T) {
	m := startMachine(t)
	r, err := Check(t.Context(), m.policy(ModeNone))
	require.NoError(t, err)
	require.Regexp(t, `^\d+\.\d+\.\d+$`, r.QMP.Version)
	require.True(t, r.QMP.Running)

	q, err := DialQMP(t.Context(), m.qmp)
	require.NoError(t, err)
	defer q.Close()
	d, err := q.Machine(t.Context())
	require.NoError(t, err)
	disks, err := d.Disks()
	require.NoError(t, err)
	require.Len(t, disks, 2)
	for _, disk := range disks {
		require.Equal(t, m.disk, disk.File)
		require.Equal(t, "raw", disk.Driver)
		require.NotEmpty(t, disk.Device)
	}
	require.True(t, disks[0].ReadOnly != disks[1].ReadOnly, "one is a CD-ROM")
	state, err := d.RunState()
	require.NoError(t, err)
	require.True(t, state.Running)
	require.EqualValues(t, 32<<20, d.RAM())
	require.Contains(t, string(d.Version), "qemu")
	require.Contains(t, string(d.Memory), "33554432")
	require.Contains(t, string(d.CPUs), "cpu-index")
	require.Contains(t, string(d.Block), m.disk)
	require.Contains(t, string(d.Status), "running")

	var said *CommandError
	require.ErrorAs(t, q.Execute(t.Context(), "no-such-command", nil, nil), &said)
	require.Equal(t, "CommandNotFound", said.Class)
}

func TestRealPause(t *testing.T) {
	m := startMachine(t)
	paused := func() error {
		require.Equal(t, "paused", m.state(t).Status)
		return nil
	}
	require.NoError(t, take(t, running(m.policy(ModePause)), paused).err)
	require.True(t, m.state(t).Running)
	m.ask(t, func(q *QMP) { require.NoError(t, q.Stop(t.Context())) })
	require.NoError(t, take(t, running(m.policy(ModePause)), paused).err)
	require.Equal(t, "paused", m.state(t).Status, "it was so before")
	// The same after a crash.
	require.NoError(t, Release(t.Context(), Held{QMP: m.qmp, Running: true}))
	require.True(t, m.state(t).Running)
}

// Memory that was saved is that of the instant of the swap, and a machine goes on from it.
func TestRealMemory(t *testing.T) {
	m := startMachine(t)
	t.Cleanup(func() { liveEmulated = false })
	for _, liveEmulated = range []bool{true, false, true} { // this firmware does little
		image, err := os.Create(filepath.Join(t.TempDir(), "memory"))
		require.NoError(t, err)
		defer image.Close()
		var ram []byte
		var last Progress
		r := running(m.policy(ModeAgentOrCrash))
		r.Policy.Agent = "/nowhere" // a guest whose memory is saved is not frozen
		r.Memory = &Memory{File: image, Progress: func(p Progress) error {
			last = p
			return nil
		}}
		got := take(t, r, func() error {
			require.Equal(t, "postmigrate", m.state(t).Status)
			ram = m.ram(t)
			return nil
		})
		require.NoError(t, got.err)
		require.Equal(t, Crash, got.Consistency)
		require.Empty(t, got.Warning)
		require.Positive(t, got.Paused)
		require.Nil(t, got.marked)
		require.True(t, m.state(t).Running)
		require.Positive(t, last.Transferred)
		require.Positive(t, last.Pass)

		restored := startMachine(t, "-S", "-incoming", "exec:cat "+image.Name())
		eventually(t, func() error {
			if s := restored.state(t); s.Status != "paused" {
				return fmt.Errorf("it is %s", s.Status)
			}
			return nil
		})
		require.True(t, bytes.Equal(ram, restored.ram(t)))
	}
}

// A memory image that is given up leaves the machine running, and no migration behind.
func TestRealMemoryGivenUp(t *testing.T) {
	m := startMachine(t)
	liveEmulated = true // in the middle of it, the machine runs
	t.Cleanup(func() { liveEmulated = false })
	image, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	require.NoError(t, err)
	defer image.Close()
	full := errors.New("the store is full")
	refused := errors.New("no swap")
	for _, test := range []struct{ progress, swap, want error }{
		{full, nil, full}, {nil, refused, refused}, {nil, nil, nil},
	} {
		r := running(m.policy(ModeNone))
		r.Memory = &Memory{File: image, Progress: func(Progress) error { return test.progress }}
		got := take(t, r, func() error { return test.swap })
		require.Equal(t, test.want, got.err)
		require.Nil(t, got.Held)
		require.True(t, m.state(t).Running)
		m.ask(t, func(q *QMP) {
			now, err := q.migration(t.Context())
			require.NoError(t, err)
			require.False(t, now.underWay())
		})
	}

	// At whatever moment: QEMU can do it again.
	for after := range 30 {
		r := running(m.policy(ModeNone))
		r.Memory = &Memory{File: image}
		s, err := New(r)
		require.NoError(t, err)
		require.NoError(t, s.Start(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(after)*5*time.Millisecond)
		err = s.Hold(ctx, func() error { return nil })
		cancel()
		o := s.End(t.Context())
		require.Equal(t, err == nil, o.Swapped)
		require.Nil(t, o.Held)
		require.Empty(t, o.Warning)
		require.True(t, m.state(t).Running)
	}
}
