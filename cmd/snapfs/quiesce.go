package main

// snapfs quiesce --check: whether a VM's guest could be brought to rest, without doing it. It talks to the guest itself:
// the daemon has no part in it.

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/quiesce"
)

// guestColumns are what quiesce --check shows of a guest's file systems.
var guestColumns = []column[quiesce.FSInfo]{
	{name: "mountpoint", cell: func(f quiesce.FSInfo) string { return f.Mountpoint }},
	{name: "device", cell: func(f quiesce.FSInfo) string { return f.Name }},
	{name: "type", cell: func(f quiesce.FSInfo) string { return f.Type }},
	{name: "used", right: true, cell: func(f quiesce.FSInfo) string { return showSize(f.Used) }},
	{name: "size", right: true, cell: func(f quiesce.FSInfo) string { return showSize(f.Total) }},
}

func (a *app) quiesceCmd() *cobra.Command {
	var table tableFlags
	var check, asJSON bool
	cmd := &cobra.Command{
		Use:   "quiesce VM --check",
		Short: "Show whether a VM's guest can be brought to rest; freezes nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !check {
				return usagef("quiesce is for checking: quiesce VM --check; `snapfs create` brings the guest to rest")
			}
			return a.checkQuiesce(cmd.Context(), args[0], table, asJSON)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "reach the guest agent and the monitor, and show what they can do")
	table.add(cmd, columnNames(guestColumns))
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) checkQuiesce(ctx context.Context, vm string, table tableFlags, asJSON bool) error {
	p, err := openVM(vm)
	if err != nil {
		return err
	}
	all, err := p.policy()
	if err != nil {
		return err
	}
	policy := all.Quiesce
	if policy.Agent == "" && policy.QMP == "" {
		return fmt.Errorf("the policy of %s names no agent and no monitor; name them: snapfs policy %s set quiesce.agent=SOCKET", p.name(), p.dir)
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	done := a.working("asking the guest")
	report, err := quiesce.Check(ctx, quiescePolicy(policy))
	done()
	if asJSON && err == nil {
		return writeJSON(a.stdout, report)
	}
	if showErr := showReport(a.stdout, report, table); showErr != nil {
		return showErr
	}
	if err == nil && report.Agent != nil && !report.Agent.Freeze {
		return fmt.Errorf("the guest agent of %s can't freeze file systems: allow guest-fsfreeze-freeze and -thaw in the guest", p.name())
	}
	return err
}

// showReport writes what was found for people; bare, the guest's file systems alone.
func showReport(w io.Writer, r quiesce.Report, table tableFlags) error {
	var b strings.Builder
	if r.Agent != nil {
		fmt.Fprintf(&b, "guest agent %s: freeze %s, freeze of chosen mountpoints %s\n",
			r.Agent.Version, yesNo(r.Agent.Freeze), yesNo(r.Agent.FreezeList))
		if r.Agent.Frozen {
			b.WriteString("its file systems are frozen now\n")
		}
	}
	if r.QMP != nil {
		fmt.Fprintf(&b, "monitor of QEMU %s: machine %s\n", r.QMP.Version, r.QMP.Status)
	}
	if !table.bare {
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	if r.Agent == nil || len(r.Agent.FileSystems) == 0 {
		return nil
	}
	return showTable(w, guestColumns, r.Agent.FileSystems, table)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
