package main

// snapfs delete: all of the snapshots named, or none.

import "github.com/spf13/cobra"

func (a *app) deleteCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "delete VM NAME…",
		Short: "Delete snapshots, all or none",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := a.command(args[0], "delete", "deleting", command{Names: args[1:]}, asJSON)
			return err
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}
