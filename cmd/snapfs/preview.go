package main

// snapfs preview, commit, undo: a look at a snapshot that can be written to, and then kept or not.

import "github.com/spf13/cobra"

func (a *app) previewCmd() *cobra.Command {
	var c command
	cmd := a.changeCmd("preview", "previewing", &c)
	cmd.Use = "preview VM NAME"
	cmd.Short = "Make a VM's files those of a snapshot, to try it out"
	cmd.Long = `Make a VM's files those of a snapshot, to try it out: start the guest, look, write. Then ` + "`snapfs commit`" + ` goes on
from there, and ` + "`snapfs undo`" + ` brings back what the files were. A preview lasts until one of the two, also over
unmounting. During it no snapshot can be created.`
	cmd.Args = cobra.ExactArgs(2)
	addForceFlag(cmd, &c, "preview")
	addFilesFlag(cmd, &c, "only these files; the others stay as they are")
	return cmd
}

func (a *app) commitCmd() *cobra.Command {
	cmd := a.changeCmd("commit", "committing", &command{})
	cmd.Use = "commit VM"
	cmd.Short = "Go on from what a preview shows"
	cmd.Long = `Go on from what a preview shows. What the files were before it is kept as a snapshot named before-commit-TIME.`
	cmd.Args = cobra.ExactArgs(1)
	return cmd
}

func (a *app) undoCmd() *cobra.Command {
	var c command
	cmd := a.changeCmd("undo", "undoing", &c)
	cmd.Use = "undo VM"
	cmd.Short = "End a preview: a VM's files are what they were before it"
	cmd.Long = `End a preview: a VM's files are what they were before it. What was written during it is gone.`
	cmd.Args = cobra.ExactArgs(1)
	addForceFlag(cmd, &c, "undo")
	return cmd
}
