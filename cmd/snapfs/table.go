package main

// Tables, as `zfs list` shows them.

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"
)

// column is one of those a table can have.
type column[T any] struct {
	name  string
	right bool // numbers stand to the right
	cell  func(T) string
}

// tableFlags say how a table is shown.
type tableFlags struct {
	bare    bool   // -H
	columns string // -o
}

func (t *tableFlags) add(cmd *cobra.Command, names []string) {
	cmd.Flags().BoolVarP(&t.bare, "no-header", "H", false, "no header, and one tab between columns")
	cmd.Flags().StringVarP(&t.columns, "columns", "o", "", "which `COLUMNS` to show: "+strings.Join(names, ","))
}

// fieldColumns show the fields of an object, a line each.
func fieldColumns(key string) []column[field] {
	return []column[field]{
		{name: key, cell: func(f field) string { return f.key }},
		{name: "value", cell: func(f field) string { return showValue(f.key, f.value) }},
	}
}

// showTable shows rows as the flags say, by default in all columns.
func showTable[T any](w io.Writer, all []column[T], rows []T, t tableFlags) error {
	columns := all
	if t.columns != "" {
		var err error
		if columns, err = pickColumns(all, t.columns); err != nil {
			return err
		}
	}
	return writeTable(w, columns, rows, t.bare)
}

// pickColumns finds the columns that a comma-separated list names.
func pickColumns[T any](all []column[T], names string) ([]column[T], error) {
	var picked []column[T]
	for name := range strings.SplitSeq(names, ",") {
		c, ok := findColumn(all, name)
		if !ok {
			return nil, usagef("no column %q; there are %s", name, strings.Join(columnNames(all), ", "))
		}
		picked = append(picked, c)
	}
	return picked, nil
}

func findColumn[T any](all []column[T], name string) (column[T], bool) {
	for _, c := range all {
		if c.name == name {
			return c, true
		}
	}
	return column[T]{}, false
}

func columnNames[T any](all []column[T]) []string {
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	return names
}

// writeTable shows rows in columns: bare with tabs for scripts, else aligned under a header.
func writeTable[T any](w io.Writer, columns []column[T], rows []T, bare bool) error {
	var lines [][]string
	if !bare {
		var header []string
		for _, c := range columns {
			header = append(header, strings.ToUpper(c.name))
		}
		lines = append(lines, header)
	}
	for _, row := range rows {
		var line []string
		for _, c := range columns {
			line = append(line, oneCell(c.cell(row)))
		}
		lines = append(lines, line)
	}
	widths := widest(lines)
	var b strings.Builder
	for _, line := range lines {
		if bare {
			b.WriteString(strings.Join(line, "\t"))
		} else {
			b.WriteString(alignLine(line, columns, widths))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// widest is the width of each column.
func widest(lines [][]string) []int {
	var widths []int
	for _, line := range lines {
		for i, cell := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], uniseg.StringWidth(cell))
		}
	}
	return widths
}

// alignLine pads the cells of a line to the widths of their columns.
func alignLine[T any](line []string, columns []column[T], widths []int) string {
	var b strings.Builder
	for i, cell := range line {
		padding := strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell))
		if i > 0 {
			b.WriteString("  ")
		}
		if columns[i].right {
			cell, padding = padding+cell, ""
		}
		b.WriteString(cell + padding)
	}
	return strings.TrimRight(b.String(), " ")
}

// oneCell keeps a text, such as a description of several lines, within its cell. What is empty shows as a dash.
func oneCell(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text
}

// writeJSON writes a value in one line.
func writeJSON(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}
