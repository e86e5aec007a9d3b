package quiesce

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scriptVirsh puts a virsh on PATH that notes its arguments and then does what the body says, with the command in $what.
func scriptVirsh(t *testing.T, body string) (log func() []string) {
	dir := t.TempDir()
	text := fmt.Sprintf(`#!/bin/sh
echo "$1 $2 $3 ${4-} ${5:+T}" >>%[1]s/log
what=${3#*\"execute\":\"}
what=${what%%%%\"*}
%[2]s
`, dir, body)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "virsh"), []byte(text), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, err := os.ReadFile(filepath.Join(dir, "log"))
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

func libvirtPolicy(mode Mode, timeout Duration) Policy {
	p := DefaultPolicy()
	p.Mode, p.Agent, p.QMP, p.Timeout = mode, "libvirt:web", "libvirt:web", timeout
	return p
}

// The agent of a libvirt domain is asked through virsh, and never waited for longer than by ourselves.
func TestVirshAgent(t *testing.T) {
	log := scriptVirsh(t, `case $what in
		guest-fsfreeze-status) echo '{"return":"thawed"}';;
		guest-fsfreeze-freeze-list) echo '{"return":3}';;
		guest-fsfreeze-thaw) echo '{"return":3}'; echo;;
	esac`)
	p := libvirtPolicy(ModeAgent, long)
	p.Mountpoints = []string{"/"}
	got := take(t, running(p), nil)
	require.NoError(t, got.err)
	require.Equal(t, FileSystem, got.Consistency)
	require.Equal(t, []string{
		`qemu-agent-command web {"execute":"guest-fsfreeze-status"} --timeout T`,
		`qemu-agent-command web {"execute":"guest-fsfreeze-freeze-list","arguments":{"mountpoints":["/"]}} --timeout T`,
		`qemu-agent-command web {"execute":"guest-fsfreeze-thaw"} --timeout T`,
	}, log())
}

// So is the monitor.
func TestVirshMonitor(t *testing.T) {
	log := scriptVirsh(t, `case $what in
		query-status)
			if [ -e ${0%/*}/stopped ]; then echo '{"return":{"running":false,"status":"paused"},"id":"libvirt-8"}'
			else echo '{"return":{"running":true,"status":"running"},"id":"libvirt-7"}'; fi;;
		stop) >${0%/*}/stopped; echo '{"return":{}}';;
		cont) rm ${0%/*}/stopped; echo '{"return":{}}';;
	esac`)
	got := take(t, running(libvirtPolicy(ModePause, long)), nil)
	require.NoError(t, got.err)
	require.Equal(t, Crash, got.Consistency)
	require.Equal(t, []string{
		`qemu-monitor-command web {"execute":"query-status"}`,
		`qemu-monitor-command web {"execute":"stop"}`,
		`qemu-monitor-command web {"execute":"query-status"}`,
		`qemu-monitor-command web {"execute":"cont"}`,
	}, trimmed(log()))
}

func trimmed(lines []string) []string {
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// However virsh fails, the snapshot fails within its time, or is taken as it is.
func TestBadVirsh(t *testing.T) {
	for name, test := range map[string]struct {
		freeze  string
		errno   syscall.Errno
		says    string
		timeout Duration
	}{
		"fails":     {"echo 'error: internal error: unable to execute QEMU agent command' >&2; echo 'error: twice' >&2; exit 1", syscall.EIO, "unable to execute", long},
		"no domain": {`echo "error: failed to get domain 'web'" >&2; exit 1`, syscall.EIO, "failed to get domain", long},
		"no daemon": {"echo 'error: failed to connect to the hypervisor' >&2; exit 1", syscall.EIO, "failed to connect", long},
		"no answer": {"echo 'error: Guest agent is not responding: not now' >&2; exit 1", syscall.ETIMEDOUT, "no answer", long},
		"dies":      {"kill -9 $$", syscall.EIO, "killed", long},
		"hangs":     {"sleep 1000 & sleep 1000", syscall.ETIMEDOUT, "no answer", short},
		"garbage":   {"echo hello", syscall.EIO, "garbage", long},
		"nothing":   {"true", syscall.EIO, "garbage", long},
		"10 MB":     {"head -c 10000000 /dev/zero", syscall.EIO, "more than", long},
	} {
		t.Run(name, func(t *testing.T) {
			log := scriptVirsh(t, `case $what in
				guest-fsfreeze-status) echo '{"return":"thawed"}';;
				guest-fsfreeze-thaw) echo '{"return":0}';;
				*) `+test.freeze+`;;
			esac`)
			for _, mode := range []Mode{ModeAgent, ModeAgentOrCrash} {
				got := take(t, running(libvirtPolicy(mode, test.timeout)), nil)
				if mode == ModeAgent {
					require.ErrorIs(t, got.err, test.errno)
					require.ErrorContains(t, got.err, test.says)
					require.Zero(t, got.swaps)
				} else {
					require.NoError(t, got.err)
					require.True(t, got.Swapped)
					require.Contains(t, got.Warning, test.says)
				}
				require.Nil(t, got.Held)
				require.Contains(t, log()[len(log())-1], "guest-fsfreeze-thaw")
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		got := take(t, running(libvirtPolicy(ModeAgent, long)), nil)
		require.ErrorIs(t, got.err, syscall.EIO)
		require.Nil(t, got.marked)
	})
}

// A domain that does not run is not held.
func TestReleaseDomain(t *testing.T) {
	scriptVirsh(t, `echo 'error: Requested operation is not valid: domain is not running' >&2; exit 1`)
	require.NoError(t, Release(context.Background(), Held{Agent: "libvirt:web"}))
	require.NoError(t, Release(context.Background(), Held{QMP: "libvirt:web", Running: true}))
	scriptVirsh(t, `echo 'error: failed to connect to the hypervisor' >&2; exit 1`)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(short))
	defer cancel()
	require.Error(t, Release(ctx, Held{Agent: "libvirt:web"}), "who knows")
}

// libvirt's own test driver has a domain and neither agent nor monitor: how far our command lines get with the real
// virsh, and what it says.
func TestRealVirsh(t *testing.T) {
	t.Setenv("LIBVIRT_DEFAULT_URI", "test:///default")
	ctx := context.Background()
	agent := func(domain string) *Agent {
		a, err := DialAgent(ctx, "libvirt:"+domain)
		require.NoError(t, err, "nothing is asked yet")
		return a
	}
	const understood = "not supported by the connection driver"
	_, err := agent("test").Freeze(ctx, []string{"/", `/srv/a "b" 'c' $d \e`, "C:\\"})
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorContains(t, err, understood+": virDomainQemuAgentCommand")
	_, err = agent("test").Thaw(ctx)
	require.ErrorContains(t, err, understood)
	q, err := DialQMP(ctx, "libvirt:test")
	require.NoError(t, err)
	_, err = q.Status(ctx)
	require.ErrorContains(t, err, understood+": virDomainQemuMonitorCommand")

	for _, domain := range []string{"web", "my vm", `a'b"c$d`} {
		_, err = agent(domain).Frozen(ctx)
		require.ErrorIs(t, err, errNoDomain)
		require.ErrorContains(t, err, "failed to get domain '"+domain+"'")
		require.NoError(t, Release(ctx, Held{Agent: "libvirt:" + domain}), "one that is not there is not held")
	}
	t.Setenv("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket="+filepath.Join(t.TempDir(), "none"))
	_, err = agent("test").Frozen(ctx)
	require.ErrorIs(t, err, syscall.EIO)
	require.NotErrorIs(t, err, errNoDomain, "libvirt is away, the guest may be there")
}
