// Package daemon is what tests and benchmarks of the built binary have in common: a place of their own to mount in, and
// daemons that end with them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Binary is the absolute path of the program under test: $SNAPFS_BIN, else what `make build` leaves.
var Binary string

const privateMounts = "SNAPFS_PRIVATE_MOUNTS"

// Main is for TestMain of a package one directory below the module's. It runs everything in a mount namespace of its
// own, after prepare: whatever is left mounted, or in use by a loop device, goes when it ends.
func Main(m *testing.M, prepare func() error) {
	if !Private() {
		os.Exit(Rerun(context.Background()))
	}
	if err := errors.Join(DropCopies(), findBinary(), prepare()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Private says whether this is the child that Rerun started.
func Private() bool { return os.Getenv(privateMounts) != "" }

// Rerun starts this program again as a child, in a mount namespace of its own, and returns its exit status. The child is
// killed when the context ends.
func Rerun(ctx context.Context) int {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateMounts+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "this needs root:", err)
		return 1
	}
	return 0
}

// DropCopies unmounts what the new namespace has copied of other mounts of snapfs: a copy would keep their stores open.
func DropCopies() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "fuse.snapfs" {
			_ = unix.Unmount(f[1], unix.MNT_DETACH) // it may be gone by now
		}
	}
	return nil
}

func findBinary() (err error) {
	path := os.Getenv("SNAPFS_BIN")
	if path == "" {
		if out, err := exec.Command("make", "-C", "..", "build").CombinedOutput(); err != nil {
			return fmt.Errorf("make build: %w\n%s", err, out)
		}
		path = "../bin/snapfs"
	}
	if Binary, err = filepath.Abs(path); err != nil {
		return err
	}
	_, err = os.Stat(Binary)
	return err
}
