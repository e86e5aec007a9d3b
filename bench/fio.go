package main

// fio: the load that everybody knows.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	"github.com/stretchr/testify/require"
)

// fioOn returns what puts a load on files of so many bytes: one, or one for each job.
func fioOn(s *scope, size int64, paths ...string) func(load, time.Duration) sample {
	return func(l load, t time.Duration) sample { return fio(s, size, l, t, paths...) }
}

func fio(s *scope, size int64, l load, t time.Duration, paths ...string) sample {
	cmd := fioCommand(size, l, t, paths...)
	out, err := cmd.Output()
	require.NoError(s, err, "%v: %s", cmd, out)
	got := fioReport(s, out)
	if l.synced {
		got.p50, got.p99 = 0, 0 // of writes only: fio counts fdatasync apart
	}
	return got
}

// fioRun is one that is under way.
type fioRun struct {
	s   *scope
	cmd *exec.Cmd
	out bytes.Buffer
}

// startFio puts a load on a file, and returns once it is there.
func startFio(s *scope, size int64, l load, t time.Duration, path string) *fioRun {
	f := &fioRun{s: s, cmd: fioCommand(size, l, t, path)}
	f.cmd.Stdout = &f.out
	start(s, f.cmd)
	await(s, "fio's jobs", func() bool { return counter(s, f.cmd.Process.Pid, "status", "Threads") > int64(l.jobs) })
	return f
}

// wait waits for its end.
func (f *fioRun) wait() sample {
	require.NoError(f.s, f.cmd.Wait(), "%v: %s", f.cmd, &f.out)
	return fioReport(f.s, f.out.Bytes())
}

// fioCommand is the load as fio is told of it.
func fioCommand(size int64, l load, t time.Duration, paths ...string) *exec.Cmd {
	args := []string{
		"--name=global", fmt.Sprint("--size=", size), "--allow_file_create=0", "--thread",
		"--rw=" + l.rw, "--rwmixread=70", "--ioengine=" + l.engine, fmt.Sprint("--bs=", l.block), fmt.Sprint("--iodepth=", l.queue),
		fmt.Sprint("--numjobs=", l.jobs/len(paths)), "--group_reporting", "--randrepeat=0", "--lat_percentiles=1", "--clat_percentiles=0",
		"--clocksource=clock_gettime", // its own takes 70 ms to get to know
		"--time_based", fmt.Sprintf("--runtime=%dms", t.Milliseconds()), "--output-format=json",
	}
	if !l.cached {
		args = append(args, "--direct=1")
	}
	if l.synced {
		args = append(args, "--fdatasync=1")
	}
	for _, path := range paths {
		args = append(args, "--name=bench", "--filename="+path)
	}
	return exec.Command("fio", args...)
}

// fioReport reads the part of fio's report that counts. The latency is that of writes if there are any, from
// before a request is handed to the kernel: some are complete by the time that returns.
func fioReport(s *scope, out []byte) sample {
	type direction struct {
		IOPS    float64
		IOs     float64 `json:"total_ios"`
		Latency struct {
			Percentile map[string]float64
		} `json:"lat_ns"`
	}
	var report struct {
		Jobs []struct{ Read, Write direction }
	}
	require.NoError(s, json.Unmarshal(out, &report), "%s", out)
	require.Len(s, report.Jobs, 1)
	r, w := report.Jobs[0].Read, report.Jobs[0].Write
	require.Positive(s, r.IOs+w.IOs, "%s", out)
	latency := w.Latency.Percentile
	if w.IOs == 0 {
		latency = r.Latency.Percentile
	}
	return sample{
		ops: r.IOs + w.IOs, perSec: r.IOPS + w.IOPS,
		p50: latency["50.000000"] / 1e3, p99: latency["99.000000"] / 1e3,
	}
}
