package main

// snapfs check: looks through a store that no daemon has open.

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/layer"
)

func (a *app) checkCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check STORE",
		Short: "Look for damage in a store that is not mounted",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.check(args[0], asJSON)
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) check(dir string, asJSON bool) error {
	if err := refuseMount(dir); err != nil {
		return err
	}
	done := a.working("checking")
	report, err := layer.Check(dir)
	done()
	if err != nil {
		return err
	}
	if asJSON {
		if err := writeJSON(a.stdout, jsonReport(report)); err != nil {
			return err
		}
	} else {
		a.showReport(report)
	}
	if n := len(report.Findings); n > 0 {
		return fmt.Errorf("%s: %s", dir, count(n, "finding"))
	}
	return nil
}

// refuseMount tells who names a mount what to do: its store is what can be checked, and only while nobody has it open.
func refuseMount(dir string) error {
	mounted, err := mountAt(dir)
	if err != nil || mounted == nil || mounted.fsType != fsType {
		return err
	}
	return fmt.Errorf("%s is a mount: unmount it with `snapfs umount %[1]s`, then check its store with `snapfs check %[2]s`", dir, mounted.source)
}

func (a *app) showReport(r layer.Report) {
	for _, f := range r.Findings {
		fmt.Fprintf(a.stdout, "%s: %s\n", f.Object, oneLine(f.Text))
	}
	fmt.Fprintf(a.stdout, "%s, %s, %s, %s, %s, %s\n",
		count(r.VMs, "VM"), count(r.Files, "file"), count(r.Snapshots, "snapshot"),
		count(r.Layers, "layer"), count(int(r.Records), "index record"), showSize(r.Bytes))
}

// jsonReport is a report under the names of its JSON.
func jsonReport(r layer.Report) any {
	type finding struct {
		Object string `json:"object"`
		Text   string `json:"text"`
	}
	findings := []finding{}
	for _, f := range r.Findings {
		findings = append(findings, finding(f))
	}
	return struct {
		Findings  []finding `json:"findings"`
		VMs       int       `json:"vms"`
		Files     int       `json:"files"`
		Snapshots int       `json:"snapshots"`
		Layers    int       `json:"layers"`
		Records   int64     `json:"records"`
		Bytes     int64     `json:"bytes"`
	}{findings, r.VMs, r.Files, r.Snapshots, r.Layers, r.Records, r.Bytes}
}

// count writes "1 file", "2 files".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
