// Package integration drives the built binary the way an operator and QEMU do:
// real kernel mounts, real guests, nothing of the program imported. Each file has
// one theme; mount_test.go, control_test.go and guests_test.go are the tools.
package integration

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/integration/daemon"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	daemon.Main(m, func() error { return nil })
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
	cmd := exec.Command(daemon.Binary, args...)
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
