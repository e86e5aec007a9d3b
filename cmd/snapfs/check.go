package main

// snapfs check: looks through a store that no daemon has open, and with --repair sets right what it finds.

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

func (a *app) checkCmd() *cobra.Command {
	var asJSON, repair bool
	cmd := &cobra.Command{
		Use:   "check STORE",
		Short: "Look for damage in a store that is not mounted",
		Long: `Look for damage in a store that is not mounted, and name whom it strikes. Nothing is written there.

With --repair, what can be set right is: counts, lists and checksums are made anew; files that are not the store's go to
STORE/quarantine; blocks that a data file has lost are noted, so that to read them is an error, and never zeros, until they
are written anew. What no repair brings back is named as long as somebody lacks it: the VM, the file or snapshot, and which
bytes; what a damaged journal took with it, which reads as it was before, is named once, and so are VMs and snapshots that
were made after what a damaged index goes back to. Checksums that are lost are made anew of what the data is then. An index
whose log is damaged is made anew of what is sound before the damage, if that is newer than all backups; of an index that is damaged otherwise see ` + "`snapfs restore-index`" + `.

Exit code 0: nothing is wrong, or not any more. 1: something is, or is lost.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.check(args[0], repair, asJSON)
		},
	}
	addJSONFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&repair, "repair", false, "set right what can be, put the rest aside, and say what is lost")
	return cmd
}

func (a *app) check(dir string, repair, asJSON bool) error {
	what, run := "checking", layer.Check
	if repair {
		what, run = "repairing", layer.Repair
	}
	if err := refuseMounted(dir, "check"); err != nil {
		return err
	}
	done := a.working(what)
	report, err := run(dir)
	done()
	if err != nil {
		return err
	}
	report.Findings = append(report.Findings, report.Lost...)
	if !report.WentBack.IsZero() {
		gone, err := findGone(dir, report.WentBack, report.Names, repair)
		if err != nil {
			return err
		}
		report.Findings = append(report.Findings, gone...)
	}
	if report.Restored != nil {
		if err := keepRestored(dir, *report.Restored); err != nil {
			return err
		}
	}
	if asJSON {
		if err := writeJSON(a.stdout, jsonReport(report)); err != nil {
			return err
		}
	} else {
		a.showReport(report)
	}
	if report.Untold {
		if err := layer.Told(dir); err != nil {
			return err
		}
	}
	switch n := len(report.Findings); {
	case n > 0 && repair:
		return fmt.Errorf("%s: %s that a repair does not mend", dir, count(n, "finding"))
	case n > 0:
		return fmt.Errorf("%s: %s", dir, count(n, "finding"))
	}
	return nil
}

// refuseMount tells who names a mount what to do: its store is what is wanted, and only while nobody has it open.
func refuseMount(dir, command string) error {
	mounted, err := mountAt(dir)
	if err != nil || mounted == nil || mounted.fsType != fsType {
		return err
	}
	return fmt.Errorf("%s is a mount: unmount it with `snapfs umount %[1]s`, then run `snapfs %[3]s %[2]s`", dir, mounted.source, command)
}

// refuseMounted refuses the store of a mount, too, also while no worker of that has it open: what it knows would be of
// another store.
func refuseMounted(dir, command string) error {
	if err := refuseMount(dir, command); err != nil {
		return err
	}
	store, err := resolveMissing(dir)
	if err != nil {
		return err
	}
	table, err := mountTable()
	if err != nil {
		return err
	}
	for _, m := range table {
		if m.fsType == fsType && m.source == store && !isDead(m.point) {
			return fmt.Errorf("store %s is in use: it is mounted at %s; unmount it with `snapfs umount %[2]s` first", dir, m.point)
		}
	}
	return nil
}

// isDead says whether nobody can ever serve a mount again. One whose next worker is awaited does not answer, and is not.
func isDead(point string) bool {
	said := make(chan error, 1)
	go func() {
		var fs unix.Statfs_t
		said <- unix.Statfs(point, &fs)
	}()
	select {
	case err := <-said:
		return errors.Is(err, unix.ENOTCONN)
	case <-time.After(2 * time.Second):
		return false
	}
}

func (a *app) showReport(r layer.Report) {
	showFindings(a.stdout, "repaired: ", r.Repaired)
	showFindings(a.stdout, "", r.Findings)
	showFindings(a.stdout, "note: ", r.Notes)
	if r.Unread {
		fmt.Fprintln(a.stdout, "nothing but the index was looked at")
		return
	}
	fmt.Fprintf(a.stdout, "%s, %s, %s, %s, %s, %s\n",
		count(r.VMs, "VM"), count(r.Files, "file"), count(r.Snapshots, "snapshot"),
		count(r.Layers, "layer"), count(int(r.Records), "index record"), showSize(r.Bytes))
}

func showFindings(w io.Writer, label string, findings []layer.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%s%s: %s\n", label, f.Object, oneLine(f.Text))
	}
}

// finding is a layer.Finding under the names of its JSON.
type finding struct {
	Object  string     `json:"object"`
	Text    string     `json:"text"`
	Ranges  [][2]int64 `json:"ranges,omitempty"`
	Readers []string   `json:"readers,omitempty"`
}

func jsonFindings(all []layer.Finding) []finding {
	findings := []finding{}
	for _, f := range all {
		findings = append(findings, finding(f))
	}
	return findings
}

// jsonReport is a report under the names of its JSON.
func jsonReport(r layer.Report) any {
	return struct {
		Findings  []finding `json:"findings"`
		Repaired  []finding `json:"repaired"`
		Notes     []finding `json:"notes"`
		VMs       int       `json:"vms"`
		Files     int       `json:"files"`
		Snapshots int       `json:"snapshots"`
		Layers    int       `json:"layers"`
		Records   int64     `json:"records"`
		Bytes     int64     `json:"bytes"`
		Unread    bool      `json:"unread"`
	}{jsonFindings(r.Findings), jsonFindings(r.Repaired), jsonFindings(r.Notes), r.VMs, r.Files, r.Snapshots, r.Layers, r.Records, r.Bytes, r.Unread}
}

// count writes "1 file", "2 files".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
