package main

// What revert, preview, commit and undo have in common: they change what a VM's files are.

import (
	"fmt"

	"github.com/spf13/cobra"
)

// changeCmd is a command that changes what a VM's files are, and tells what an operator has to know then.
func (a *app) changeCmd(control, doing string, c *command) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				c.Name = args[1]
			}
			return a.change(args[0], control, doing, *c, asJSON)
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) change(vm, control, doing string, c command, asJSON bool) error {
	reply, err := a.command(vm, control, doing, c, asJSON)
	if err == nil && !asJSON {
		a.sayChanged(reply)
	}
	return err
}

func addForceFlag(cmd *cobra.Command, c *command, what string) {
	cmd.Flags().BoolVar(&c.Force, "force", false, what+" although files are open for writing; the guest must be reset after that")
}

// sayChanged tells what an operator has to know after a change.
func (a *app) sayChanged(reply answer) {
	if reply.Running != nil && *reply.Running {
		fmt.Fprintln(a.stdout, "the machine ran when it was taken")
	}
	if reply.Kept != nil && *reply.Kept != "" {
		fmt.Fprintf(a.stdout, "kept as %s\n", *reply.Kept)
	}
	if reply.Warning != nil {
		fmt.Fprintln(a.stdout, *reply.Warning)
	}
	if reply.Incoming != nil {
		fmt.Fprintf(a.stdout, "start it from its memory with, and cont if it stands still then:\n-incoming %s\n", *reply.Incoming)
	}
	if reply.Reset {
		fmt.Fprintln(a.stdout, "reset the guest now: its disks have changed under it")
	}
}
