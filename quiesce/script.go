package quiesce

// The host's scripts: they tell what runs in the guest, by whatever way they know, that a snapshot begins and has ended.

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// ScriptTime is what each script may take.
	ScriptTime = 30 * time.Second

	// scriptOutput is how much of what a script prints can end up in an error, in bytes.
	scriptOutput = 1 << 10
)

// runScript runs a script without arguments. Its failure carries the last line that it printed to stderr.
//
// A shell starts it: a thread that starts a program can't be stopped, as the garbage collector must, before the kernel
// has read the program. From a file system that hangs, such as NFS without its server, this process would hang, and
// with it all VMs.
func runScript(ctx context.Context, path string, env []string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, stderr, err := process{path: "/bin/sh", args: []string{"-c", `exec "$0"`, path}, env: env, keep: scriptOutput}.run(ctx)
	switch {
	case err == nil:
		return nil
	case timedOut(err):
		return &Error{Errno: syscall.ETIMEDOUT, Text: fmt.Sprintf("script %s: killed after %v", path, limit), cause: err}
	case lastLine(stderr) != "":
		err = fmt.Errorf("%w: %s", err, lastLine(stderr))
	}
	return failed(err, "script %s", path)
}

func lastLine(output []byte) string {
	lines := bytes.Split(bytes.TrimSpace(output), []byte("\n"))
	return strings.ToValidUTF8(string(lines[len(lines)-1]), "?")
}

// scriptEnv is what scripts learn: the daemon's own environment and which snapshot this is. Its type is VSS's COPY: it is
// nobody's backup, so nothing that keeps logs since the last one may truncate them.
func scriptEnv(vm, snapshot string) []string {
	return append(os.Environ(), "SNAPFS_VM="+vm, "SNAPFS_SNAPSHOT="+snapshot, "SNAPFS_TYPE=copy")
}

// chosen are the scripts whose base name is among the hooks, or all if there are no hooks.
func chosen(scripts, hooks []string) []string {
	if len(hooks) == 0 {
		return scripts
	}
	var named []string
	for _, path := range scripts {
		if slices.Contains(hooks, filepath.Base(path)) {
			named = append(named, path)
		}
	}
	return named
}

// checkHooks refuses a hook that is no script's name: whoever asks for db means that db is quiesced.
func checkHooks(p Policy, hooks []string) error {
	for _, hook := range hooks {
		if hook == "" || len(chosen(p.Pre, []string{hook}))+len(chosen(p.Post, []string{hook})) == 0 {
			return invalid("the policy has no script named %q", hook)
		}
	}
	return nil
}
