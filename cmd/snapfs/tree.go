package main

// snapfs tree: a VM's snapshots and what grew from what. The daemon draws it; in JSON it is the list, whose
// entries name their parents.

import "github.com/spf13/cobra"

func (a *app) treeCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tree VM",
		Short: "Show a VM's snapshots as a tree",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := openVM(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.show(p, "list")
			}
			return a.show(p, "tree")
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}
