// Package integration drives the built binary the way an operator and QEMU do:
// real kernel mounts, real guests, nothing of the program imported. Each file has
// one theme; mount_test.go, control_test.go and guests_test.go are the tools.
package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// program is the binary under test: $SNAPFS_BIN, else what `make build` leaves.
var program string

const privateMounts = "SNAPFS_PRIVATE_MOUNTS"

// TestMain runs the tests in a mount namespace of their own: whatever a test
// that crashed leaves mounted, or in use by a loop device, goes when it ends.
func TestMain(m *testing.M) {
	if os.Getenv(privateMounts) == "" {
		os.Exit(rerun())
	}
	err := errors.Join(dropCopies(), findBinary())
	if err != nil {
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
		fmt.Fprintln(os.Stderr, "integration tests need root:", err)
		return 1
	}
	return 0
}

// dropCopies unmounts what the new namespace has copied of other mounts of
// snapfs: a copy would keep their stores open.
func dropCopies() error {
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

func findBinary() error {
	program = os.Getenv("SNAPFS_BIN")
	if program == "" {
		if out, err := exec.Command("make", "-C", "..", "build").CombinedOutput(); err != nil {
			return fmt.Errorf("make build: %w\n%s", err, out)
		}
		program = "../bin/snapfs"
	}
	path, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	program = path
	_, err = os.Stat(program)
	return err
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// snapfs runs the binary to its end, whatever that is.
func snapfs(t testing.TB, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// mustSnapfs runs the binary, which must succeed, and returns its output.
func mustSnapfs(t testing.TB, args ...string) string {
	t.Helper()
	r := snapfs(t, args...)
	require.Zero(t, r.code, "snapfs %s: %s%s", strings.Join(args, " "), r.stdout, r.stderr)
	return r.stdout
}

// failSnapfs runs the binary, which must fail with one line that contains text.
func failSnapfs(t testing.TB, text string, args ...string) {
	t.Helper()
	r := snapfs(t, args...)
	require.Equal(t, 1, r.code, "snapfs %s: %s%s", strings.Join(args, " "), r.stdout, r.stderr)
	require.Contains(t, r.stderr, text)
	require.Equal(t, 1, strings.Count(strings.TrimSpace(r.stderr), "\n")+1, "one line on stderr: %q", r.stderr)
}

// run executes some other program, which must succeed, and returns its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}
