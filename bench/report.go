package main

// The report: a summary for the terminal, and all of it for a file.

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// writeSummary writes what matters, ratios first.
func (b *bench) writeSummary(w io.Writer, ran []group) {
	fmt.Fprintln(w)
	writeGoals(w, b.results)
	for _, g := range ran {
		writeGroup(w, b.results, g)
	}
}

// writeReport writes everything to a new file and returns its path.
func (b *bench) writeReport(dir string, ran []group, began time.Time, about [][]string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	prefix := began.Format("2006-01-02-150405")
	path := filepath.Join(dir, prefix+".md")
	plots, err := writePlots(dir, prefix, b.results)
	if err != nil {
		return "", err
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fmt.Fprintf(f, "# Benchmark of %s, %s form\n\n", began.Format("2 January 2006, 15:04"), b.name)
	fmt.Fprint(f, preface+"\n")
	writeTable(f, []string{"machine", ""}, about)
	for _, name := range plots {
		fmt.Fprintf(f, "\n![%[1]s](%[1]s.svg)\n", name)
	}
	b.writeSummary(f, ran)
	writeFigures(f, b.results)
	return path, f.Close()
}

const preface = `Each load was put on all peers in turn, round after round, and what counts are ratios: a figure such as 2.1 × 14.0 k
says that the peer did 14,000, and that snapfs was 2.1 times better, as the median over the rounds of each round's ratio.
Absolute figures are those of this machine. QEMU 7.2's FUSE export damages data under parallel writes, so its figures
for these are of something that can't be used.
`
