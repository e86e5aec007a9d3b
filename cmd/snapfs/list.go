package main

// snapfs list: the snapshots of a VM, or of all of a mount.

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"
)

// listOfMount is what list shows when not told otherwise.
const listOfMount = "vm,name,created,size,unique,shared,consistency,description"

// timeLayout is how people are shown a time, in their own zone.
const timeLayout = "2006-01-02 15:04:05"

// listColumns are all that list can show. Sizes are sums over the snapshot's files: allocated is what they show as data,
// and of that unique is what deleting this one snapshot would give back.
var listColumns = []column[listed]{
	{name: "vm", cell: func(s listed) string { return s.VM }},
	{name: "name", cell: func(s listed) string { return s.Name }},
	{name: "parent", cell: func(s listed) string { return orEmpty(s.Parent) }},
	{name: "created", cell: func(s listed) string { return s.Created.Local().Format(timeLayout) }},
	{name: "state", cell: func(s listed) string { return s.State }},
	{name: "consistency", cell: func(s listed) string { return s.Consistency }},
	{name: "size", right: true, cell: func(s listed) string { return showSize(s.size()) }},
	{name: "allocated", right: true, cell: func(s listed) string { return showSize(s.allocated()) }},
	{name: "unique", right: true, cell: func(s listed) string { return showKnown(s.Unique) }},
	{name: "shared", right: true, cell: func(s listed) string { return showKnown(s.Shared) }},
	{name: "files", cell: func(s listed) string { return strings.Join(s.fileNames(), ",") }},
	{name: "excluded", cell: func(s listed) string { return strings.Join(s.Excluded, ",") }},
	{name: "warning", cell: func(s listed) string { return orEmpty(s.Warning) }},
	{name: "memory", right: true, cell: func(s listed) string {
		if s.Memory == nil {
			return ""
		}
		return showSize(*s.Memory)
	}},
	{name: "description", cell: func(s listed) string { return s.Description }},
}

func (a *app) listCmd() *cobra.Command {
	var asJSON bool
	var table tableFlags
	cmd := &cobra.Command{
		Use:   "list VM|MOUNT",
		Short: "List the snapshots of a VM or of a whole mount, oldest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.list(args[0], table, asJSON)
		},
	}
	table.add(cmd, columnNames(listColumns))
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) list(path string, table tableFlags, asJSON bool) error {
	columns, err := pickColumns(listColumns, cmp.Or(table.columns, listOfMount))
	if err != nil {
		return err
	}
	p, err := openPlace(path)
	if err != nil {
		return err
	}
	if asJSON {
		return a.show(p, "list")
	}
	if table.columns == "" && p.isVM() {
		columns = columns[1:] // all are of this VM
	}
	rows, err := p.snapshots()
	if err != nil {
		return err
	}
	if p.isVM() {
		for i := range rows {
			rows[i].VM = p.name()
		}
	}
	return writeTable(a.stdout, columns, rows, table.bare)
}

// show copies what a control file says to stdout.
func (a *app) show(p place, control string) error {
	text, err := p.read(control)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(text)
	return err
}

func (s listed) size() (sum int64) {
	for _, f := range s.Files {
		sum += f.Size
	}
	return sum
}

func (s listed) allocated() (sum int64) {
	for _, f := range s.Files {
		sum += f.Allocated
	}
	return sum
}

func (s listed) fileNames() (names []string) {
	for _, f := range s.Files {
		names = append(names, f.Name)
	}
	return names
}

// showKnown shows a size that may not have been found out yet.
func showKnown(n *int64) string {
	if n == nil {
		return ""
	}
	return showSize(*n)
}

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
