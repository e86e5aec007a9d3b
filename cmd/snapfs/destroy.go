package main

// snapfs destroy: a VM with all it has.

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) destroyCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "destroy VM",
		Short: "Remove a VM, its files and all its snapshots",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.destroy(args[0], yes)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return cmd
}

// doomed is a VM with all that goes with it.
type doomed struct {
	vm        place
	snapshots []listed
	files     []os.FileInfo
	previewed string // the snapshot under preview, if any
}

func findDoomed(path string) (d doomed, err error) {
	if d.vm, err = openVM(path); err != nil {
		return d, err
	}
	if d.snapshots, err = d.vm.snapshots(); err != nil {
		return d, err
	}
	if d.files, err = vmFiles(d.vm.dir); err != nil {
		return d, err
	}
	d.previewed, err = d.vm.previewed()
	return d, err
}

func (a *app) destroy(path string, yes bool) error {
	d, err := findDoomed(path)
	if err != nil {
		return err
	}
	if err := refuseIfWritten(d.vm.dir, d.files); err != nil {
		return err
	}
	if err := refuseIfKept(d.vm.dir); err != nil {
		return err
	}
	if !yes {
		if !isTerminal(a.stdin) {
			return fmt.Errorf("%s: nobody to ask whether to destroy it; say --yes", path)
		}
		a.showDoomed(path, d)
		if !a.confirm("Destroy all of it?") {
			return errors.New("nothing was destroyed")
		}
	}
	defer a.working("destroying")()
	return d.destroy()
}

// refuseIfKept refuses before anything is deleted, where the VM's directory could not be removed in the end.
func refuseIfKept(dir string) error {
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("you may not remove what is in %s: %w; nothing was destroyed", path, err)
		}
	}
	return nil
}

// vmFiles are the files of a VM's current state.
func vmFiles(dir string) ([]os.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []os.FileInfo
	for _, e := range entries {
		if e.IsDir() {
			continue // .snapshots, where it is visible
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		files = append(files, info)
	}
	return files, nil
}

// refuseIfWritten refuses when a process has one of a VM's files open for writing: a guest runs on it.
func refuseIfWritten(dir string, files []os.FileInfo) error {
	used, err := writers(dir, files)
	if err != nil || len(used) == 0 {
		return err
	}
	return fmt.Errorf("open for writing, stop the guest first: %s", showHolders(used))
}

// writers finds who has one of these files, all of one directory, open for writing.
func writers(dir string, files []os.FileInfo) ([]holder, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	inodes := make(map[uint64]bool)
	for _, f := range files {
		inodes[f.Sys().(*syscall.Stat_t).Ino] = true
	}
	m := mountEntry{major: unix.Major(st.Dev), minor: unix.Minor(st.Dev)}
	var used []holder
	for _, h := range processHolders(m) {
		if h.write && inodes[h.inode] {
			used = append(used, h)
		}
	}
	return used, nil
}

// showDoomed lists what a destroy takes along.
func (a *app) showDoomed(path string, d doomed) {
	fmt.Fprintf(a.stdout, "%s: %s, %s\n", path, count(len(d.files), "file"), count(len(d.snapshots), "snapshot"))
	for _, f := range d.files {
		fmt.Fprintf(a.stdout, "  file      %s (%s)\n", f.Name(), showSize(f.Size()))
	}
	for _, s := range d.snapshots {
		fmt.Fprintf(a.stdout, "  snapshot  %s (%s, %s)\n", s.Name, s.Created.Local().Format(timeLayout), showSize(s.size()))
	}
	if d.previewed != "" {
		fmt.Fprintf(a.stdout, "  preview   of %s, with what the files were before it\n", d.previewed)
	}
}

// confirm asks a question; anything but yes is no.
func (a *app) confirm(question string) bool {
	fmt.Fprintf(a.stdout, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}

// destroy goes from what can still be refused to what can't: an open snapshot keeps everything as it is. A preview is
// committed first, as that loses nothing, and ends what stands in the way of deleting.
func (d doomed) destroy() error {
	if d.previewed != "" {
		if _, err := d.vm.do("commit", command{}); err != nil {
			return err
		}
		var err error
		if d.snapshots, err = d.vm.snapshots(); err != nil {
			return err
		}
	}
	for _, names := range batches(d.snapshots) {
		if _, err := d.vm.do("delete", command{Names: names}); err != nil {
			return err
		}
	}
	for _, f := range d.files {
		if err := os.Remove(filepath.Join(d.vm.dir, f.Name())); err != nil {
			return err
		}
	}
	return os.Remove(d.vm.dir)
}

// batches splits names over as many commands as their length asks for: one holds 64 KiB, and a name of 255 bytes may
// take six times that in JSON.
func batches(snapshots []listed) [][]string {
	const most = 40
	var all [][]string
	for len(snapshots) > 0 {
		n := min(most, len(snapshots))
		var names []string
		for _, s := range snapshots[:n] {
			names = append(names, s.Name)
		}
		all, snapshots = append(all, names), snapshots[n:]
	}
	return all
}
