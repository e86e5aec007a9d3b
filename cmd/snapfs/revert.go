package main

// snapfs revert: makes a VM's files those of a snapshot.

import "github.com/spf13/cobra"

func (a *app) revertCmd() *cobra.Command {
	var c command
	cmd := a.changeCmd("revert", "reverting", &c)
	cmd.Use = "revert VM NAME"
	cmd.Short = "Make a VM's files those of a snapshot"
	cmd.Long = `Make a VM's files those of a snapshot: newer files go, renamed and removed ones return. What is left behind is kept
as a snapshot named before-revert-TIME unless --discard is given. Snapshots newer than NAME stay.`
	cmd.Args = cobra.ExactArgs(2)
	cmd.Flags().BoolVar(&c.Discard, "discard", false, "keep nothing of the state that is left behind")
	addForceFlag(cmd, &c, "revert")
	addFilesFlag(cmd, &c, "only these files")
	return cmd
}
