package main

// What it was measured on.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// about describes the machine, the programs and how they were set.
func (b *bench) about(dir string, awake bool, took time.Duration) [][]string {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	rows := [][]string{
		{"CPU", fmt.Sprintf("%d × %s", runtime.NumCPU(), fieldOf("/proc/cpuinfo", "model name"))},
		{"which sleep", map[bool]string{true: "never", false: "as they like, but where snapfs is asked for much"}[awake]},
		{"memory", fieldOf("/proc/meminfo", "MemTotal")},
		{"kernel", unix.ByteSliceToString(uts.Release[:])},
		{"files on", firstLine("findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T", dir)},
		{"load", firstLine("cat", "/proc/loadavg")},
		{"Go", runtime.Version()},
		{"fio", firstLine("fio", "--version")},
		{"QEMU", firstLine("qemu-img", "--version")},
		{"snapfs", firstLine("git", "describe", "--always", "--dirty")},
		{"rounds", fmt.Sprintf("%d of %s, %d where little decides, fewer where it took too long; disks of %d MiB", b.rounds, b.each, b.closely, b.size/mib)},
		{"all of it took", took.Round(time.Second).String()},
	}
	if b.disks != nil {
		rows = append(rows,
			[]string{"QSD", b.disks.qemu.String() + ": fastest of four; images added by a snapshot have aio=threads"},
			[]string{"qcow2", "qemu-img bench, cache=none, aio=" + b.disks.direct.AIO + ": fastest of three"})
	}
	return rows
}

// keepAwake lets no processor sleep until the file is closed (Documentation/power/pm_qos_interface.rst).
func keepAwake() (*os.File, error) {
	f, err := os.OpenFile("/dev/cpu_dma_latency", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, 4)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// fieldOf is the first field of that name in a file of /proc.
func fieldOf(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

// firstLine is the first line that a program says.
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "?"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
