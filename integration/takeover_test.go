package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// killWorkers kills one worker of the mount after the other, until stop is
// closed, and returns what waits for the end and tells how many there were.
func killWorkers(m *mount, stop <-chan struct{}) (killed func() int) {
	n := make(chan int)
	go func() {
		count := 0
		for {
			select {
			case <-stop:
				n <- count
				return
			case <-time.After(time.Duration(50+rand.IntN(250)) * time.Millisecond):
			}
			if count%2 == 0 { // the others may be killed while they start; of five such in a row a mount dies
				_, _ = m.answering()
			}
			if pid := m.Worker(); pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil {
				count++
			}
		}
	}()
	return func() int { return <-n }
}

// TestWorkersKilledUnderFio has fio write, verify and flush while workers are
// killed: what it only wrote is there when it reads back, and no request fails.
func TestWorkersKilledUnderFio(t *testing.T) {
	for _, c := range []struct{ size, depth string }{{"4k", "16"}, {"1M", "4"}} {
		t.Run(c.size, func(t *testing.T) {
			m := newMount(t)
			m.vm("web")
			disk := m.disk("web", "disk.img", 0)
			stop := make(chan struct{})
			killed := killWorkers(m, stop)
			run(t, "fio", "--name=verify", "--filename="+disk, "--size=64M", "--rw=randrw", "--bs="+c.size, "--iodepth="+c.depth,
				"--ioengine=libaio", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--verify_state_save=0", "--fsync=64",
				"--time_based", "--runtime=5")
			close(stop)
			require.Positive(t, killed())
			supervisor := take(m.Cmd.Process.Pid)
			resident := supervisor.anon + supervisor.mapped
			t.Logf("the supervisor has %d KiB resident, and %d KiB of the session", resident>>10, supervisor.shared>>10)
			require.Positive(t, resident)
			require.Less(t, resident, int64(20<<20))
			slack := func(pid int) string {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
				return strings.TrimSpace(string(text))
			}
			require.Eventually(t, func() bool { return slack(m.Worker()) == "500000" }, time.Minute, time.Millisecond, "the last one may just have been killed")
			require.Equal(t, slack(os.Getpid()), slack(m.Cmd.Process.Pid))
		})
	}
}

// TestWorkersKilledUnderGuest has a guest write and sync, and snapshots be made,
// while workers are killed. The guest notices nothing, and all is as if they had
// lived.
func TestWorkersKilledUnderGuest(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	disk := m.disk("busy", "disk.img", 128<<20)
	w := startWriter(t, disk)
	stop := make(chan struct{})
	killed := killWorkers(m, stop)
	var least []int
	for i := range 5 {
		least = append(least, w.goesOn())
		require.NoError(t, os.Mkdir(snapshotPath(vm, fmt.Sprint("s", i)), 0o755))
	}
	close(stop)
	require.Positive(t, killed())
	last := w.goesOn()
	require.NotContains(t, inGuest(t, w.Guest, "dmesg"), "I/O error")
	require.NoError(t, w.Quit(t.Context()))
	require.GreaterOrEqual(t, countSound(t, disk), last)
	for i, n := range least {
		require.GreaterOrEqual(t, countSound(t, snapshotPath(vm, fmt.Sprint("s", i), "disk.img")), n, "snapshot %d", i)
	}
}
