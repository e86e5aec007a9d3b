package main

// snapfs rename: gives a snapshot another name.

import "github.com/spf13/cobra"

func (a *app) renameCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rename VM OLD NEW",
		Short: "Give a snapshot another name",
		Args:  cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := a.command(args[0], "rename", "renaming", command{Name: args[1], To: args[2]}, asJSON)
			return err
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}
