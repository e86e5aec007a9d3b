package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a process of the test binary is, beside what `go test` starts.
const (
	asTests  = "SNAPFS_TEST_PRIVATE"   // runs the tests
	asSnapfs = "SNAPFS_TEST_AS_SNAPFS" // is snapfs: what `mount` runs in the background is its own executable
)

// TestMain runs the tests in a mount namespace of their own: nothing stays mounted after them, and nobody else's
// namespace can hold on to their mounts.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asSnapfs) != "":
		requestFault = poison
		beAsBuilt()
		main()
	case os.Getenv(asTests) == "":
		os.Exit(rerun())
	}
	os.Setenv(asSnapfs, "1")
	os.Exit(m.Run())
}

// rerun runs this program again, apart, and returns its exit code.
func rerun() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), asTests+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "these tests need root, to mount:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// snapfs runs a command line in this process.
func snapfs(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// done runs a command line that must succeed, and returns what it wrote.
func done(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := snapfs(args...)
	require.Equal(t, exitDone, code, "snapfs %s: %s", strings.Join(args, " "), stderr)
	require.Empty(t, stderr)
	return stdout
}

// refused runs a command line that must fail, with one line, and returns that.
func refused(t *testing.T, args ...string) string {
	t.Helper()
	code, _, stderr := snapfs(args...)
	require.Equal(t, exitFailed, code, "snapfs %s: %s", strings.Join(args, " "), stderr)
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	return stderr
}

func TestUsage(t *testing.T) {
	for _, line := range []string{
		"",
		"frobnicate",
		"mount",
		"mount STORE",
		"mount STORE POINT EXTRA",
		"mount STORE POINT --snapdir=sometimes",
		"mount STORE POINT --reserve=plenty",
		"mount STORE POINT --reserve=0",
		"mount STORE POINT --reserve=100%",
		"mount STORE POINT --map-memory=5%",
		"mount STORE POINT --no-such-flag",
		"umount",
		"create VM",
		"list",
		"list VM -o name,nonsense",
		"revert VM",
		"revert VM NAME --files=",
		"create VM NAME --files=a,,b",
		"delete VM",
		"delete VM --older-than=soon",
		"delete VM --older-than=0s",
		"delete VM --dry-run",
		"preview VM",
		"commit",
		"commit VM NAME",
		"undo VM NAME",
		"undo VM --files=a",
		"clone VM NEW",
		"clone VM@NAME",
		"rename VM OLD",
		"destroy",
		"import IMAGE",
		"export VM/FILE IMAGE.unknown",
		"check",
		"restore-index",
		"policy",
		"policy VM set",
		"policy VM get quiesce.mode",
		"quiesce VM",
		"quiesce --check",
	} {
		t.Run(line, func(t *testing.T) {
			code, stdout, stderr := snapfs(strings.Fields(line)...)
			require.Equal(t, exitUsage, code, stderr)
			require.Empty(t, stdout)
			require.True(t, strings.HasPrefix(stderr, "snapfs: "), stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	help := done(t, "--help")
	for _, name := range strings.Fields("mount umount create list tree log status revert delete rename preview commit undo clone destroy policy quiesce import export check restore-index") {
		require.Contains(t, help, "\n  "+name+" ")
	}
	require.Contains(t, done(t, "--version"), "snapfs version ")
}

func TestNotAMount(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"create", dir, "x"}, {"list", dir}, {"tree", dir}, {"log", dir}, {"status", dir}, {"revert", dir, "x"},
		{"delete", dir, "x"}, {"rename", dir, "x", "y"}, {"destroy", "--yes", dir},
		{"preview", dir, "x"}, {"commit", dir}, {"undo", dir}, {"clone", dir + "@x", "y"},
		{"policy", dir}, {"policy", dir, "set", "schedule="}, {"quiesce", dir, "--check"},
		{"delete", dir, "--older-than=1h"}, {"export", dir + "/x", dir + "/y.raw"},
	} {
		require.Contains(t, refused(t, args...), "neither a VM's directory in a snapfs mount nor such a mount")
	}
	require.Contains(t, refused(t, "umount", dir), "no snapfs mount")
	require.Contains(t, refused(t, "list", dir+"/missing"), "no such file or directory")
}

func TestOneLine(t *testing.T) {
	require.Equal(t, "a; b; c", oneLine("a\nb\r\n\nc\n"))
}
