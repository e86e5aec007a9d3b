// Package bench measures what must not get lost: `make bench`, or `go test -bench=. ./bench` for some of it.
//
// Whatever is compared is measured in turns within one run, and what counts is the median over the rounds of each
// round's ratio: a machine that others use as well slows both sides of a pair, and everything here runs before them.
// CPU time per operation tells more than operations per second where the two differ. Absolute figures are for
// orientation. Files lie in $TMPDIR, which should be on a disk and not a tmpfs. With -short all of it takes less than a minute and
// says less. docs/performance.md has what came out, and where the time goes.
package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// binary is the program under test: $SNAPFS_BIN, else what `make build` leaves.
var binary string

// priority is the niceness of all that is measured, and of what measures it.
const priority = -15

const privateMounts = "SNAPFS_PRIVATE_MOUNTS"

// TestMain runs everything in a mount namespace of its own: whatever is left mounted goes when it ends.
func TestMain(m *testing.M) {
	if os.Getenv(privateMounts) == "" {
		os.Exit(rerun())
	}
	if err := errors.Join(findBinary(), unix.Setpriority(unix.PRIO_PROCESS, 0, priority)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// rerun starts this program again as a child and returns its exit status.
func rerun() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateMounts+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks need root:", err)
		return 1
	}
	return 0
}

func findBinary() (err error) {
	path := os.Getenv("SNAPFS_BIN")
	if path == "" {
		if out, err := exec.Command("make", "-C", "..", "build").CombinedOutput(); err != nil {
			return fmt.Errorf("make build: %w\n%s", err, out)
		}
		path = "../bin/snapfs"
	}
	if binary, err = filepath.Abs(path); err != nil {
		return err
	}
	_, err = os.Stat(binary)
	return err
}
