package main

// Resolution alone, without files: the benchmarks of package blockmap, whose results are taken into the report.

import (
	"bufio"
	"bytes"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
)

var benchLine = regexp.MustCompile(`^Benchmark(Resolution|NaiveWalk)/(.*)/depth=(\d+)\S*\s+\d+\s+(.*)`)

// resolution runs them and reads what they say.
func (b *bench) resolution() {
	b.plan(1)
	b.step("go test -bench in blockmap")
	for range b.troubles {
		out, err := exec.Command("go", "test", "-run=^$", "-bench=^(BenchmarkResolution|BenchmarkNaiveWalk)$", "-benchtime="+b.resolveTime.String(),
			"-timeout=30m", "./blockmap").CombinedOutput()
		require.NoError(b, err, "%s", out)
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			if m := benchLine.FindStringSubmatch(lines.Text()); m != nil {
				b.noteResolution(m[1], m[2], m[3], strings.Fields(m[4]))
			}
		}
	}
	require.NotEmpty(b, b.results.rows)
}

// noteResolution takes a line such as "5.1 ns/op 0 B/op 0 allocs/op".
func (b *bench) noteResolution(name, work, depth string, fields []string) {
	who := snapfs
	if name == "NaiveWalk" {
		who = naive
	}
	d, err := strconv.Atoi(depth)
	require.NoError(b, err)
	for i := 0; i+1 < len(fields); i += 2 {
		value, err := strconv.ParseFloat(fields[i], 64)
		require.NoError(b, err, "%v", fields)
		at := row{b.group, strings.ReplaceAll(work, ",", ", "), d, perBlock}
		switch fields[i+1] {
		case "ns/op":
		case "allocs/op":
			at.metric = allocations
		default:
			continue
		}
		b.results.add(at, who, value)
	}
}
