package integration

import (
	"syscall"
	"testing"

	"github.com/snapfs/snapfs/integration/guest"
	"github.com/stretchr/testify/require"
)

// TestSecondDrive is what every course on hypervisors teaches, with two virtual
// machines on one mount: add a drive, snapshot, initialise the drive, snapshot,
// go back, and go forward again with one of them.
func TestSecondDrive(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	work := t.TempDir()
	vms := []string{"alpha", "beta"}
	boot := func() []*guest.Guest {
		guests := make([]*guest.Guest, len(vms))
		together(t, len(vms), func(i int) (err error) {
			guests[i], err = guest.Start(t.Context(), guest.Config{
				Name: vms[i], Dir: work,
				Disks: []string{m.path(vms[i], "root.img"), m.path(vms[i], "data.img")},
			})
			return err
		})
		for _, g := range guests {
			t.Cleanup(g.Kill)
		}
		return guests
	}
	var guests []*guest.Guest
	run := func(i int, script string) error {
		_, err := guests[i].Run(t.Context(), "vm="+vms[i]+"\nset -e\n"+script)
		return err
	}
	inBoth := func(script string) {
		t.Helper()
		together(t, len(vms), func(i int) error { return run(i, script) })
	}
	snapshotBoth := func(name string) {
		t.Helper()
		for _, vm := range vms {
			mustCommand(t, m.path(vm), "create", name+"\n")
		}
	}

	for _, vm := range vms {
		m.vm(vm)
		m.disk(vm, "root.img", 32<<20)
		m.disk(vm, "data.img", 64<<20)
	}
	guests = boot()
	inBoth("mkfs.ext4 -q /dev/vda; mount /dev/vda /mnt; echo $vm >/mnt/hostname; sync")
	snapshotBoth("before-drive-mount")
	inBoth("mkdir /tmp/data; mkfs.ext4 -q /dev/vdb; mount /dev/vdb /tmp/data; " +
		"seq 100000 >/tmp/data/$vm; echo later >>/mnt/hostname; sync")
	snapshotBoth("second-drive-initialized")

	// Running machines are not pulled back under their guests' feet.
	for _, vm := range vms {
		failCommand(t, syscall.EBUSY, m.path(vm), "revert", "before-drive-mount")
	}
	for i, g := range guests {
		require.NoError(t, g.Quit(t.Context()))
		mustSnapfs(t, "revert", m.path(vms[i]), "before-drive-mount")
	}
	const (
		blank  = "cmp -n 67108864 /dev/vdb /dev/zero\n"
		before = "mount /dev/vda /mnt; test \"$(cat /mnt/hostname)\" = $vm; umount /mnt\n"
		after  = "mount /dev/vda /mnt; tail -n 1 /mnt/hostname | grep -q later; umount /mnt\n" +
			"mkdir -p /tmp/data; mount /dev/vdb /tmp/data; seq 100000 | cmp - /tmp/data/$vm; umount /tmp/data\n"
	)
	guests = boot()
	inBoth(before + blank)

	// One goes forward, while its machine is on, and is then reset.
	mustSnapfs(t, "revert", m.path("alpha"), "second-drive-initialized", "--force")
	require.NoError(t, guests[0].Reset(t.Context()))
	require.NoError(t, run(0, after))
	require.NoError(t, run(1, before+blank))
	for _, g := range guests {
		switchOff(t, g)
	}
}
