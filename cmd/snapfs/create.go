package main

// snapfs create: takes a snapshot.

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) createCmd() *cobra.Command {
	var c command
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create VM NAME",
		Short: "Take a snapshot of a VM",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c.Name = args[1]
			reply, err := a.command(args[0], "create", "taking the snapshot", c, asJSON)
			if err == nil && !asJSON {
				a.sayCreated(reply)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&c.Description, "message", "m", "", "what the snapshot is for, `TEXT`")
	cmd.Flags().BoolVar(&c.Memory, "memory", false, "save the machine's memory, too; the policy must name its monitor, quiesce.qmp")
	addFilesFlag(cmd, &c, "only these of the VM's files")
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// sayCreated tells what is to be known of a snapshot beyond that it is there.
func (a *app) sayCreated(reply answer) {
	if reply.Snapshot == nil {
		return
	}
	if reply.Snapshot.Memory != nil {
		fmt.Fprintf(a.stdout, "with %s of memory; the machine stood still for %d ms\n", showSize(*reply.Snapshot.Memory), reply.PausedMS)
	}
	if reply.Snapshot.Warning != nil {
		fmt.Fprintf(a.stderr, "snapfs: warning: %s\n", oneLine(*reply.Snapshot.Warning))
	}
}

// command gives a VM one command; with asJSON the daemon's answer goes to stdout as it came.
func (a *app) command(vm, control, doing string, c command, asJSON bool) (answer, error) {
	p, err := openVM(vm)
	if err != nil {
		return answer{}, err
	}
	var done func()
	if c.Memory {
		done = a.watch(p, "saving the memory")
	} else {
		done = a.working(doing)
	}
	reply, err := p.do(control, c)
	done()
	if err != nil {
		return reply, err
	}
	if asJSON {
		_, err = a.stdout.Write(reply.text)
	}
	return reply, err
}

func addJSONFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "answer in JSON")
}

// addFilesFlag adds --files a,b. File names may have blanks and quotes, so that it is split at commas and no more.
func addFilesFlag(cmd *cobra.Command, c *command, usage string) {
	cmd.Flags().Func("files", usage+", `A,B`", func(text string) error {
		c.Files = strings.Split(text, ",")
		if slices.Contains(c.Files, "") {
			return errors.New("a name is empty") // above all: nothing must not mean all
		}
		return nil
	})
}
