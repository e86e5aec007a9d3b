package integration

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRevertReset reverts under a guest that runs, and resets it: it boots from
// the disk as it is then.
func TestRevertReset(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("web")
	g := startGuest(t, t.TempDir(), "web", m.disk("web", "disk.img", 64<<20))
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo one >/mnt/state && sync")
	mustCommand(t, vm, "create", "one")
	failSnapfs(t, "names no monitor", "revert", vm, "one", "--reset")
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp="+g.MonitorPath())
	failSnapfs(t, "has no snapshot", "revert", vm, "none", "--reset")
	inGuest(t, g, "echo two >/mnt/state && sync") // it runs on
	require.NoError(t, g.ResetBy(t.Context(), func() error {
		if r := snapfs(t, "revert", vm, "one", "--reset"); r.code != 0 {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	}))
	require.Equal(t, "one\n", inGuest(t, g, "mount /dev/vda /mnt && cat /mnt/state"))
	switchOff(t, g)

	// A machine that ends when it is reset is told of.
	g = startGuest(t, t.TempDir(), "web", m.path("web", "disk.img"))
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp="+g.MonitorPath())
	inGuest(t, g, "mount /dev/vda /mnt && echo three >/mnt/state && sync")
	failSnapfs(t, "the files are reverted, but the machine is not reset", "revert", vm, "one", "--reset")
	g = startGuest(t, t.TempDir(), "web", m.path("web", "disk.img"))
	require.Equal(t, "one\n", inGuest(t, g, "mount /dev/vda /mnt && cat /mnt/state"))
	switchOff(t, g)
}
