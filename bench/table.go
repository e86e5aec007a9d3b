package main

// Tables in Markdown, with columns that stand in line, for people at a terminal too.

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// writeTable writes rows under a header. The first column is to the left, the others to the right.
func writeTable(w io.Writer, header []string, rows [][]string) {
	width := make([]int, len(header))
	for _, row := range append(rows, header) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string) {
		for i, cell := range cells {
			space := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				cell, space = space+cell, ""
			}
			fmt.Fprintf(w, "| %s%s ", cell, space)
		}
		fmt.Fprintln(w, "|")
	}
	line(header)
	for i := range header {
		if i == 0 {
			fmt.Fprintf(w, "|-%s-", strings.Repeat("-", width[i]))
		} else {
			fmt.Fprintf(w, "|-%s:", strings.Repeat("-", width[i]))
		}
	}
	fmt.Fprintln(w, "|")
	for _, row := range rows {
		line(row)
	}
}

// writeGoals writes what is asked for, what was measured, and whether that will do.
func writeGoals(w io.Writer, r *results) {
	var rows [][]string
	for _, g := range goals() {
		value, ok := g.measure(r)
		if !ok {
			continue
		}
		what := g.what
		if g.limit != nil {
			if limit, ok := g.limit(r); ok {
				what += fmt.Sprintf(" (%s: %s %s)", loopback, number(limit), g.unit)
			}
		}
		rows = append(rows, []string{what, g.limits(), number(value) + " " + g.unit, g.verdict(value)})
	}
	if rows != nil {
		fmt.Fprintln(w, "## What it must reach")
		fmt.Fprintln(w)
		writeTable(w, []string{"", "asked", "measured", ""}, rows)
		fmt.Fprintln(w)
	}
}

// writeGroup writes a group's table: how many times better snapfs did than each peer, then the peer's figure.
func writeGroup(w io.Writer, r *results, g group) {
	var at []row
	for _, row := range r.rows {
		if row.group == g.name && slices.Contains(g.shows, row.metric) {
			at = append(at, row)
		}
	}
	if at == nil {
		return
	}
	columns := r.present(at)
	header := []string{"", "depth"}
	for _, who := range columns {
		header = append(header, string(who))
	}
	var rows [][]string
	for _, row := range at {
		cells := []string{row.work + ", " + row.metric.name, depthName(row.depth)}
		for _, who := range columns {
			cells = append(cells, r.cell(row, who))
		}
		rows = append(rows, cells)
	}
	fmt.Fprintf(w, "## %s\n\n", g.what)
	writeTable(w, header, rows)
	fmt.Fprintln(w)
}

func depthName(depth int) string {
	if depth == noDepth {
		return ""
	}
	return fmt.Sprint(depth)
}

// cell is a peer's figure, after how many times better snapfs is.
func (r *results) cell(at row, who peer) string {
	s := r.of(at, who)
	if s == nil {
		return ""
	}
	value := number(s.median())
	if times, ok := r.better(at, who); ok && who != snapfs && !math.IsInf(times, 0) && !math.IsNaN(times) {
		return fmt.Sprintf("%s × %s", number(times), value)
	}
	return value
}

// writeFigures writes each series: its median and its extremes.
func writeFigures(w io.Writer, r *results) {
	var rows [][]string
	for _, at := range r.rows {
		for _, who := range peers {
			if s := r.of(at, who); s != nil {
				rows = append(rows, []string{at.group + ": " + at.work, depthName(at.depth), string(who), at.metric.name,
					number(s.median()), number(s.quantile(0)), number(s.quantile(1)), fmt.Sprint(len(s))})
			}
		}
	}
	fmt.Fprintf(w, "## Every figure\n\n")
	writeTable(w, []string{"", "depth", "of", "in", "median", "least", "most", "rounds"}, rows)
}

// number shows three digits or so.
func number(x float64) string {
	switch {
	case x >= 1e6:
		return fmt.Sprintf("%.2f M", x/1e6)
	case x >= 1e4:
		return fmt.Sprintf("%.1f k", x/1e3)
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 0.01 || x == 0:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.2g", x)
}
