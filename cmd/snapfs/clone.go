package main

// snapfs clone: another VM that begins as a snapshot.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) cloneCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "clone VM@NAME NEWVM",
		Short: "Make another VM that begins as a snapshot",
		Long: `Make another VM, in the same mount, that begins as the snapshot NAME: at once, whatever its size, as no data is copied.
Neither depends on the other after that: the snapshot, or the whole VM, may go.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			path, snapshot := splitSource(args[0])
			if snapshot == "" {
				return usagef("%q names no snapshot: VM@NAME", args[0])
			}
			vm, err := openVM(path)
			if err != nil {
				return err
			}
			name, err := vm.nameBeside(args[1])
			if err != nil {
				return err
			}
			_, err = a.command(path, "clone", "cloning", command{Name: snapshot, To: name}, asJSON)
			return err
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// nameBeside is the name of a VM of the same mount, given as that or as a path.
func (p place) nameBeside(target string) (string, error) {
	if !strings.Contains(target, "/") {
		return target, nil
	}
	there, err := os.Stat(filepath.Dir(filepath.Clean(target)))
	if err != nil {
		return "", err
	}
	mount, err := os.Stat(p.dir + "/..") // as the kernel goes, should the path be a symbolic link
	if err != nil {
		return "", err
	}
	if !os.SameFile(there, mount) {
		return "", fmt.Errorf("%s is not in the mount of %s, where its clones must be", target, p.dir)
	}
	return filepath.Base(target), nil
}
