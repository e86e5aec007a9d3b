package fs

import (
	"encoding/binary"
	"math"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// asked is what this process asks of processors, and what the kernel makes of it, in µs.
func asked(t *testing.T) (asks bool, longest uint32) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == qosPath {
			asks = true
		}
	}
	p, err := os.ReadFile(qosPath)
	require.NoError(t, err)
	return asks, binary.NativeEndian.Uint32(p)
}

// Processors are kept awake while many reads come and there is little else to do, and no longer. Beside other tests there may be
// much to do: only where the machine was idle enough, they have to be.
func TestKeepAwake(t *testing.T) {
	m := mountStore(t, Options{Readers: 4})
	m.vm("web", string(make([]byte, 1<<20)))
	keeps, _ := asked(t)
	require.False(t, keeps)

	var began time.Time // of what should be enough
	for deadline := time.Now().Add(5 * time.Second); !keeps && time.Now().Before(deadline); {
		from, idle := time.Now(), idleTime()
		for time.Since(from) < 4*awakeEvery {
			m.readAlone(1000)
		}
		all := time.Since(from) * time.Duration(runtime.NumCPU())
		if idleTime()-idle < all/3 {
			began = time.Time{}
		} else if began.IsZero() {
			began = from
		}
		keeps, _ = asked(t)
		require.True(t, keeps || began.IsZero() || time.Since(began) < 2*time.Second, "much was asked for, and there was little to do, for 2 s")
	}
	require.Eventually(t, func() bool { keeps, _ := asked(t); return !keeps }, time.Minute, 10*time.Millisecond)
}

func TestLetSleep(t *testing.T) {
	m := mountStore(t, Options{Readers: 4, LetSleep: true})
	m.vm("web", string(make([]byte, 1<<20)))
	for end := time.Now().Add(4 * awakeEvery); time.Now().Before(end); {
		m.readAlone(1000)
		keeps, _ := asked(t)
		require.False(t, keeps)
	}
}

// readAlone reads one block after the other past the kernel's cache.
func (m *mounted) readAlone(times int) {
	m.Helper()
	fd, err := unix.Open(m.path("web", "disk"), unix.O_RDONLY|unix.O_DIRECT, 0)
	require.NoError(m, err)
	defer unix.Close(fd)
	p, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(m, err)
	defer func() { require.NoError(m, unix.Munmap(p)) }()
	for i := range times {
		_, err := unix.Pread(fd, p, int64(i%256)*4096)
		require.NoError(m, err)
	}
}

// What decides: enough requests for the processors that there are, while these have little to do.
func TestKeeper(t *testing.T) {
	k := keeper{path: qosPath, logf: t.Logf}
	defer k.release()
	now, came, idle := time.Now(), uint64(0), time.Hour
	k.idleTime = func() time.Duration { return idle }
	k.look(now, came)
	for _, step := range []struct {
		name           string
		requests, idle float64 // of what is enough
		passed         time.Duration
		keeps          bool
	}{
		{"nothing comes", 0, 8, time.Second, false},
		{"enough, and how busy it is is not known yet", 1, 0, time.Second, true},
		{"enough, and idle", 1, 1, time.Second, true},
		{"looked at too early", 0, 0, time.Millisecond, true},
		{"idle still", 1.1, 1.1, time.Second, true},
		{"busy", 100, 0.9, time.Second, false},
		{"idle again", 100, 1.1, time.Second, true},
		{"too little", 0.9, 8, time.Second, false},
		{"enough again, and busy", 1, 0, time.Second, true},
		{"which it is still", 1, 0.9, time.Second, false},
	} {
		all := step.passed.Seconds() * float64(runtime.NumCPU())
		now = now.Add(step.passed)
		came += uint64(math.Ceil(step.requests * awakeRequests * all))
		idle += time.Duration(step.idle * awakeIdle * all * float64(time.Second))
		k.look(now, came)
		keeps, longest := asked(t)
		require.Equal(t, step.keeps, keeps, step.name)
		if keeps {
			require.LessOrEqual(t, longest, longestSleep(), step.name)
		}
	}
	require.False(t, k.off)
}

// The kernel's count of idle time goes on while processors have nothing to do, and not faster than they do.
func TestIdleTime(t *testing.T) {
	from, began := idleTime(), time.Now()
	require.Positive(t, from)
	time.Sleep(100 * time.Millisecond)
	passed := idleTime() - from
	require.GreaterOrEqual(t, passed, time.Duration(0))
	require.LessOrEqual(t, passed, (time.Since(began)+100*time.Millisecond)*time.Duration(runtime.NumCPU()))
}

// Without the device all is as before, and said once.
func TestKeeperWithoutDevice(t *testing.T) {
	said := 0
	k := keeper{path: t.TempDir() + "/none", logf: func(string, ...any) { said++ }}
	now, idle, came := time.Now(), time.Hour, uint64(0)
	k.idleTime = func() time.Duration { return idle }
	for range 5 {
		k.look(now, came)
		now, idle, came = now.Add(time.Second), idle+time.Second*time.Duration(runtime.NumCPU()), came+1<<20
	}
	require.Nil(t, k.held)
	require.Equal(t, 1, said)
}
