// Command snapfs serves the disks of virtual machines as files that can be snapshotted, and drives such a mount.
//
// `snapfs mount` is the daemon, and with `check` and `restore-index` all that touches a store. The others talk to the
// daemon through the control files in the mount, as a shell script would; there is no second door into it.
//
// Exit codes: 0 done; 1 failed, with one line on stderr that says what, why and what to do; 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	surviveSignals()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is what the subcommands share: where they read and write.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	started        bool // the command line was understood, and its subcommand runs
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCmd()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errSaid):
		return exitFailed
	case !a.started || errors.As(err, &usage):
		fmt.Fprintf(stderr, "snapfs: %s (usage: %s)\n", oneLine(err.Error()), cmd.UseLine())
		return exitUsage
	}
	fmt.Fprintf(stderr, "snapfs: %s\n", oneLine(err.Error()))
	return exitFailed
}

// usageError is a wrong command line that only the subcommand itself could recognise.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (a *app) rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:           "snapfs",
		Short:         "Disks of virtual machines as files with snapshots",
		Version:       version(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("no subcommand given")
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddCommand(
		a.mountCmd(), a.umountCmd(), a.upgradeCmd(),
		a.createCmd(), a.listCmd(), a.treeCmd(), a.logCmd(), a.statusCmd(),
		a.revertCmd(), a.deleteCmd(), a.renameCmd(),
		a.previewCmd(), a.commitCmd(), a.undoCmd(), a.cloneCmd(), a.destroyCmd(),
		a.policyCmd(), a.quiesceCmd(),
		a.importCmd(), a.exportCmd(),
		a.checkCmd(), a.restoreIndexCmd(),
		a.scrubCmd(),
	)
	return root
}

// oneLine joins the lines of a text that must stay one.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '·' // a guest or a VM's owner must not get at the terminal of who reads it
		}
		return r
	}, text)
}
