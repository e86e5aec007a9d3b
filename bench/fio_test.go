package bench

// fio: the load that everybody knows, on one target after the other.

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// job is a load: what fio is to do, for how long.
type job struct {
	args []string
	time time.Duration
}

// target is a file to put a load on.
type target struct {
	name, path string
	server     int    // the process whose CPU time counts; 0: nobody's
	cached     bool   // through the page cache, not past it
	before     func() // each round, before the load; may be nil
}

// measured is what came out for a target, a value a round.
type measured struct {
	iops, cpu series // operations per second, µs of the server's CPU time per operation
}

// fio puts a load on a file and returns how many operations it took a second, and in all.
func fio(t testing.TB, at target, j job) (iops, ops float64) {
	t.Helper()
	direct := "--direct=1"
	if at.cached {
		direct = "--direct=0"
	}
	args := append([]string{
		"--name=bench", "--filename=" + at.path, "--ioengine=libaio", direct, "--bs=4k", "--allow_file_create=0",
		"--norandommap", "--randrepeat=0", "--time_based", fmt.Sprintf("--runtime=%dms", j.time.Milliseconds()),
		"--output-format=json",
	}, j.args...)
	out, err := exec.Command("fio", args...).Output()
	require.NoError(t, err, "fio %v: %s", args, out)
	type direction struct {
		IOPS float64
		IOs  float64 `json:"total_ios"`
	}
	var report struct {
		Jobs []struct{ Read, Write direction }
	}
	require.NoError(t, json.Unmarshal(out, &report), "%s", out)
	require.Len(t, report.Jobs, 1)
	r, w := report.Jobs[0].Read, report.Jobs[0].Write
	require.Positive(t, r.IOs+w.IOs)
	return r.IOPS + w.IOPS, r.IOs + w.IOs
}

// cpuTime is how long a process has been running on a CPU.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	if pid == 0 {
		return 0
	}
	var ts unix.Timespec
	const scheduler = 2 // CPUCLOCK_SCHED: see clock_getcpuclockid(3)
	require.NoError(t, unix.ClockGettime(int32(^pid<<3|scheduler), &ts))
	return time.Duration(ts.Nano())
}

// put puts a load on the target, once.
func (m *measured) put(t testing.TB, at target, j job) {
	t.Helper()
	if at.before != nil {
		at.before()
	}
	began := cpuTime(t, at.server)
	iops, ops := fio(t, at, j)
	cpu := cpuTime(t, at.server) - began
	m.iops = append(m.iops, iops)
	m.cpu = append(m.cpu, float64(cpu.Nanoseconds())/1000/ops)
}

// comparison is what came out for each target, by name.
type comparison map[string]*measured

// round puts a load on each target in turn, every other time in the opposite order.
func (c comparison) round(t testing.TB, i int, targets []target, j job) {
	t.Helper()
	for k := range targets {
		if i%2 == 1 {
			k = len(targets) - 1 - k
		}
		at := targets[k]
		if c[at.name] == nil {
			c[at.name] = new(measured)
		}
		c[at.name].put(t, at, j)
	}
}

// report says how each target did.
func (c comparison) report(b *testing.B) {
	b.Helper()
	for name, m := range c {
		b.ReportMetric(m.iops.median(), name+"-IOPS")
		if cpu := m.cpu.median(); cpu > 0 {
			b.ReportMetric(cpu, name+"-µsCPU")
		}
	}
}

// ratio reports how many operations one target did compared with another, in percent: the median of the rounds, and
// between the best round of each, which is what is left when nobody else uses the machine. Such figures come first in
// a benchmark's line.
func (c comparison) ratio(b *testing.B, of, to string) {
	b.Helper()
	x, y := c[of].iops, c[to].iops
	b.ReportMetric(100*x.over(y).median(), "%-"+of+"/"+to)
	b.ReportMetric(100*x.quantile(1)/y.quantile(1), "%-best-"+of+"/"+to)
}
