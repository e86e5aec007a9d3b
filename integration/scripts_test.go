package integration

// Scripts around a snapshot, and a worker or a whole daemon that dies amid them.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestScriptsAndDeath kills the worker, and then the whole daemon, amid the scripts
// of a snapshot: whatever a pre script began, a post script ends.
func TestScriptsAndDeath(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("db")
	writeSynced(t, m.disk("db", "disk", 0), 1<<20)
	s := newNotedScripts(t)
	mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"pre": [%q], "post": [%q]}}`, s.add("pre"), s.add("post")))
	s.hang("")
	mustCommand(t, vm, "create", "undisturbed")
	require.Equal(t, "pre undisturbed, post undisturbed", s.ran())

	for _, amid := range []string{"pre", "post"} {
		s.hang(amid)
		await := commands(vm, "create", 1, func(int) string { return "amid-" + amid })
		s.awaitHanging()
		s.hang("")
		worker := m.Worker()
		require.NoError(t, unix.Kill(worker, unix.SIGKILL))
		await()
		require.Contains(t, snapshotNames(t, vm), "amid-"+amid, "a guest's disks know nothing of it, and nor does who makes a snapshot")
	}
	require.Eventually(t, func() bool { return len(names(t, filepath.Join(m.store, "frozen"))) == 0 }, patience, 10*time.Millisecond)
	require.Equal(t, "pre amid-pre, post amid-pre, pre amid-pre, post amid-pre, "+
		"pre amid-post, post amid-post, post amid-post", s.ran())

	s.hang("pre")
	await := commands(vm, "create", 1, func(int) string { return "never" })
	s.awaitHanging()
	s.hang("")
	m.kill()
	await()
	m.start()
	require.Eventually(t, func() bool { return len(names(t, filepath.Join(m.store, "frozen"))) == 0 }, patience, 10*time.Millisecond)
	require.Equal(t, "pre never, post never", s.ran())
	requireLog(t, vm, "post-scripts vm=db snapshot=never")
	require.NotContains(t, snapshotNames(t, vm), "never")
}

// notedScripts note that they ran, and may hang.
type notedScripts struct {
	t   *testing.T
	dir string
}

func newNotedScripts(t *testing.T) notedScripts {
	s := notedScripts{t, t.TempDir()}
	require.NoError(t, unix.Mkfifo(s.path("never"), 0o600))
	return s
}

func (s notedScripts) path(name string) string { return filepath.Join(s.dir, name) }

func (s notedScripts) add(name string) (path string) {
	text := fmt.Sprintf("#!/bin/sh\ncd %s\necho %[2]s $SNAPFS_SNAPSHOT >>log\nif [ \"$(cat hang)\" = %[2]s ]; then >hanging; read x <never; echo late >>log; fi\n", s.dir, name)
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(text), 0o755))
	return s.path(name)
}

// hang has the script of that name hang from now on, until it is killed.
func (s notedScripts) hang(name string) {
	s.t.Helper()
	_ = os.Remove(s.path("hanging"))
	writeFile(s.t, s.path("hang"), []byte(name))
}

func (s notedScripts) awaitHanging() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { _, err := os.Stat(s.path("hanging")); return err == nil }, patience, time.Millisecond)
}

// ran are the scripts that did, and empties the log.
func (s notedScripts) ran() string {
	s.t.Helper()
	text := strings.TrimSpace(string(readFile(s.t, s.path("log"))))
	require.NoError(s.t, os.Remove(s.path("log")))
	return strings.ReplaceAll(text, "\n", ", ")
}
