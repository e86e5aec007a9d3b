package main

// snapfs revert: makes a VM's files those of a snapshot.

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/quiesce"
)

func (a *app) revertCmd() *cobra.Command {
	var c command
	var reset, asJSON bool
	cmd := &cobra.Command{
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Name = args[1]
			if reset {
				return a.revertAndReset(cmd.Context(), args[0], c, asJSON)
			}
			return a.change(args[0], "revert", "reverting", c, asJSON)
		},
	}
	addJSONFlag(cmd, &asJSON)
	cmd.Use = "revert VM NAME"
	cmd.Short = "Make a VM's files those of a snapshot"
	cmd.Long = `Make a VM's files those of a snapshot: newer files go, renamed and removed ones return. What is left behind is kept
as a snapshot named before-revert-TIME unless --discard is given. Snapshots newer than NAME stay.`
	cmd.Args = cobra.ExactArgs(2)
	cmd.Flags().BoolVar(&c.Discard, "discard", false, "keep nothing of the state that is left behind")
	addForceFlag(cmd, &c, "revert")
	cmd.Flags().BoolVar(&reset, "reset", false, "stop the machine for it through the monitor that the policy names, quiesce.qmp, and reset it")
	addFilesFlag(cmd, &c, "only these files")
	return cmd
}

// revertAndReset reverts under a machine that runs: it is stopped, and begins anew from the files as they are then. Once
// it is stopped a signal does not end that halfway.
func (a *app) revertAndReset(ctx context.Context, vm string, c command, asJSON bool) error {
	p, err := openVM(vm)
	if err != nil {
		return err
	}
	policy, err := p.policy()
	if err != nil {
		return err
	}
	if policy.Quiesce.QMP == "" {
		return fmt.Errorf("the policy of %s names no monitor; name it: snapfs policy %s set quiesce.qmp=SOCKET", p.name(), p.dir)
	}
	ctx, release := interruptible(ctx)
	defer release()
	q, err := quiesce.DialQMP(ctx, policy.Quiesce.QMP)
	if err != nil {
		return err
	}
	defer q.Close()
	ctx = context.WithoutCancel(ctx)
	before, err := q.Status(ctx)
	if err != nil {
		return err
	}
	if err := q.Stop(ctx); err != nil {
		return err
	}
	c.Force = true
	reply, err := a.command(vm, "revert", "reverting", c, asJSON)
	if err != nil {
		if before.Running {
			err = errors.Join(err, q.Cont(ctx))
		}
		return err
	}
	if err := q.ResetStopped(ctx); err != nil {
		return fmt.Errorf("the files are reverted, but the machine is not reset; do that before it goes on: %w", err)
	}
	if !asJSON {
		reply.Reset, reply.Running, reply.Incoming = false, nil, nil
		reply.Warning = nil // it begins anew
		a.sayChanged(reply)
	}
	return q.Cont(ctx)
}
