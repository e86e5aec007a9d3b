package main

// snapfs revert: makes a VM's files those of a snapshot.

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) revertCmd() *cobra.Command {
	var c command
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "revert VM NAME",
		Short: "Make a VM's files those of a snapshot",
		Long: `Make a VM's files those of a snapshot: newer files go, renamed and removed ones return. What is left behind is kept
as a snapshot named before-revert-TIME unless --discard is given. Snapshots newer than NAME stay.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c.Name = args[1]
			reply, err := a.command(args[0], "revert", "reverting", c, asJSON)
			if err == nil && !asJSON {
				a.sayReverted(reply)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&c.Discard, "discard", false, "keep nothing of the state that is left behind")
	cmd.Flags().BoolVar(&c.Force, "force", false, "revert although files are open for writing; the guest must be reset after that")
	addFilesFlag(cmd, &c, "only these files")
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// sayReverted tells what an operator has to know after a revert.
func (a *app) sayReverted(reply answer) {
	if reply.Kept != nil && *reply.Kept != "" {
		fmt.Fprintf(a.stdout, "kept as %s\n", *reply.Kept)
	}
	if reply.Reset {
		fmt.Fprintln(a.stdout, "reset the guest now: its disks have changed under it")
	}
}
