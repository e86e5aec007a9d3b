package main

// fio: the load that everybody knows.

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	"github.com/stretchr/testify/require"
)

// fioOn returns what puts a load on a file of so many bytes, past the page cache.
func fioOn(s *scope, path string, size int64) func(load, time.Duration) sample {
	return func(l load, t time.Duration) sample { return fio(s, path, size, l, t) }
}

func fio(s *scope, path string, size int64, l load, t time.Duration) sample {
	args := []string{
		"--name=bench", "--filename=" + path, fmt.Sprint("--size=", size), "--allow_file_create=0", "--direct=1", "--thread",
		"--rw=" + l.rw, "--rwmixread=70", "--ioengine=" + l.engine, fmt.Sprint("--bs=", l.block), fmt.Sprint("--iodepth=", l.queue),
		fmt.Sprint("--numjobs=", l.jobs), "--group_reporting", "--randrepeat=0",
		"--time_based", fmt.Sprintf("--runtime=%dms", t.Milliseconds()), "--output-format=json",
	}
	if l.synced {
		args = append(args, "--fdatasync=1")
	}
	out, err := exec.Command("fio", args...).Output()
	require.NoError(s, err, "fio %v: %s", args, out)
	return fioReport(s, out)
}

// fioReport reads the part of fio's report that counts. The latency is that of writes if there are any.
func fioReport(s *scope, out []byte) sample {
	type direction struct {
		IOPS    float64
		IOs     float64 `json:"total_ios"`
		Latency struct {
			Percentile map[string]float64
		} `json:"clat_ns"`
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
