package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOnce makes, renames and removes everything there is, and runs every
// command, while workers are killed at any moment. Whoever asks never hears of
// it: no call fails, and each has done what it was to do, once.
func TestOnce(t *testing.T) {
	m := newMount(t)
	var calls atomic.Int64
	failed := make(chan error, 3)
	stop := make(chan struct{})
	for name, client := range map[string]func(*onceClient) error{
		"files": (*onceClient).files, "vms": (*onceClient).vms, "snapshots": (*onceClient).snapshots,
	} {
		vm := m.vm(name)
		c := &onceClient{root: m.dir, vm: vm, calls: &calls}
		go func() {
			var err error
			for c.n = 0; err == nil; c.n++ {
				select {
				case <-stop:
					failed <- nil
					return
				default:
					err = client(c)
				}
			}
			failed <- err
		}()
	}
	for killed := 0; killed < *kills && len(failed) == 0; killed++ {
		for seen := calls.Load(); calls.Load() < seen+5 && len(failed) == 0; {
			time.Sleep(time.Millisecond) // until the worker serves
		}
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		_ = unix.Kill(m.Worker(), unix.SIGKILL)
	}
	close(stop)
	for range cap(failed) {
		require.NoError(t, <-failed)
	}
	late := strings.Count(string(readFile(t, m.path(".snapshots", "log"))), "answered-late")
	t.Logf("%d calls, %d workers killed, %d answers that another worker gave", calls.Load(), *kills, late)
}

// onceClient does one thing after the other in a VM of its own.
type onceClient struct {
	root, vm string
	n        int // rounds
	calls    *atomic.Int64
}

// call does something, and names it if it fails.
func (c *onceClient) call(what string, err error) error {
	c.calls.Add(1)
	if err != nil {
		return fmt.Errorf("round %d: %s: %w", c.n, what, err)
	}
	return nil
}

// all does calls until one fails.
func (c *onceClient) all(calls ...func() error) error {
	for i, do := range calls {
		if err := c.call(fmt.Sprint("call ", i), do()); err != nil {
			return err
		}
	}
	return nil
}

// has checks which names a directory has.
func has(dir string, want ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s has %q, not %q", dir, got, want)
	}
	return nil
}

// createOnly makes a file that must not be there.
func createOnly(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (c *onceClient) files() error {
	a, b := filepath.Join(c.vm, "a"), filepath.Join(c.vm, "b")
	return c.all(
		func() error { return createOnly(a) },
		func() error { return unix.Mknod(b, unix.S_IFREG|0o600, 0) },
		func() error { return has(c.vm, "a", "b") },
		func() error { return os.Rename(a, b) },
		func() error { return os.Rename(b, a) },
		func() error { return has(c.vm, "a") },
		func() error { return os.Remove(a) },
	)
}

func (c *onceClient) vms() error {
	a, b := c.vm+"-a", c.vm+"-b"
	return c.all(
		func() error { return os.Mkdir(a, 0o755) },
		func() error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE) },
		func() error { return os.Remove(b) },
	)
}

func (c *onceClient) snapshots() error {
	if c.n == 0 {
		if err := createOnly(filepath.Join(c.vm, "disk.img")); err != nil {
			return err
		}
	}
	one, two, clone := c.snapshot("one"), c.snapshot("two"), c.vm+"-clone"
	return c.all(
		func() error { return os.Mkdir(one, 0o755) },
		func() error { return os.Rename(one, two) },
		func() error { return os.Remove(two) },
		func() error { return c.command("create", "three", "three") },
		func() error { return c.command("rename", "three to=four", "four") },
		func() error { return c.command("preview", "four", "four") },
		func() error { return c.command("undo", "", "four") },
		func() error { return c.command("preview", "four", "four") },
		func() error { return c.command("commit", "", "four") },
		func() error { return c.command("revert", "four discard=true", "four") },
		func() error { return c.command("clone", "four to="+filepath.Base(clone), "four") },
		func() error { return has(clone, "disk.img") },
		func() error { return os.Remove(filepath.Join(clone, "disk.img")) },
		func() error { return os.Remove(clone) },
		func() error { return c.command("delete", "four", "four") },
		func() error { return has(c.vm, "disk.img") },
	)
}

func (c *onceClient) snapshot(name string) string { return snapshotPath(c.vm, name) }

// command runs one whose answer must name a snapshot.
func (c *onceClient) command(control, line, name string) error {
	f, err := os.OpenFile(snapshotPath(c.vm, control), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		return fmt.Errorf("%s %s: %w", control, line, err)
	}
	text, err := io.ReadAll(f) // in more than one read
	if err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", control, line, err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil || a.Snapshot == nil || a.Snapshot.Name != name {
		return fmt.Errorf("%s %s is answered %s (%w)", control, line, text, err)
	}
	return nil
}
