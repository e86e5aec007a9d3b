package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// snapshot is an entry of a VM's `list`.
type snapshot struct {
	Name        string   `json:"name"`
	Parent      *string  `json:"parent"`
	Created     string   `json:"created"`
	State       string   `json:"state"`
	Consistency string   `json:"consistency"`
	Memory      *int64   `json:"memory"`
	Running     *bool    `json:"running"`
	Description string   `json:"description"`
	Warning     *string  `json:"warning"`
	Excluded    []string `json:"excluded"`
	Files       []struct {
		Name      string `json:"name"`
		Size      int64  `json:"size"`
		Allocated int64  `json:"allocated"`
	} `json:"files"`
}

// answer is what a control file says after a command.
type answer struct {
	Snapshot  *snapshot  `json:"snapshot"`
	Snapshots []snapshot `json:"snapshots"`
	Running   *bool      `json:"running"`
	Incoming  *string    `json:"incoming"`
	Warning   *string    `json:"warning"`
	PausedMS  int64      `json:"paused_ms"`
	Error     *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// command writes one line to a control file of a VM and reads the answer. The
// error is that of write(2), and the answer must tell the same.
func command(t testing.TB, vm, control, line string) (answer, error) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(vm, ".snapshots", control), os.O_RDWR|os.O_TRUNC, 0)
	require.NoError(t, err)
	defer f.Close()
	n, writeErr := f.Write([]byte(line))
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	var a answer
	require.NoError(t, json.Unmarshal(text, &a), "answer to %s %q: %q", control, line, text)
	if writeErr == nil {
		require.Equal(t, len(line), n)
		require.Nil(t, a.Error, "%s", text)
		return a, nil
	}
	var errno syscall.Errno
	require.True(t, errors.As(writeErr, &errno))
	require.NotNil(t, a.Error, "%v, but the answer is %s", writeErr, text)
	require.Equal(t, unix.ErrnoName(errno), a.Error.Code)
	require.NotEmpty(t, a.Error.Message)
	return a, errno
}

func mustCommand(t testing.TB, vm, control, line string) answer {
	t.Helper()
	a, err := command(t, vm, control, line)
	if err != nil {
		require.NoError(t, err, "%s %q: %s", control, line, a.Error.Message)
	}
	return a
}

// tell writes a line to a control file of a VM, and reads the answer. Unlike command it can be
// used beside a test.
func tell(vm, control, line string) error {
	f, err := os.OpenFile(snapshotPath(vm, control), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		why, _ := io.ReadAll(f)
		return fmt.Errorf("%s %q: %w: %s", control, line, err, why)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read the answer to %s %q: %w", control, line, err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil || a.Error != nil {
		return fmt.Errorf("%s %q is answered %s (%w)", control, line, text, err)
	}
	return nil
}

func failCommand(t testing.TB, errno syscall.Errno, vm, control, line string) {
	t.Helper()
	_, err := command(t, vm, control, line)
	require.Equal(t, errno, err, "%s %q", control, line)
}

// list reads a VM's snapshots, oldest first.
func list(t testing.TB, vm string) []snapshot {
	t.Helper()
	var out []snapshot
	require.NoError(t, json.Unmarshal(readFile(t, filepath.Join(vm, ".snapshots", "list")), &out))
	return out
}

// snapshotNames are the names in a VM's `list`.
func snapshotNames(t testing.TB, vm string) []string {
	t.Helper()
	out := []string{}
	for _, s := range list(t, vm) {
		out = append(out, s.Name)
	}
	return out
}

// snapshotFiles lists the files of the VM that a snapshot has.
func snapshotFiles(t testing.TB, vm, name string) []string {
	t.Helper()
	return slices.DeleteFunc(names(t, snapshotPath(vm, name)), func(file string) bool {
		return file == "memory" || file == "snapshot.json"
	})
}

// snapshotPath is a file, or the directory, of a snapshot.
func snapshotPath(vm, name string, file ...string) string {
	return filepath.Join(append([]string{vm, ".snapshots", name}, file...)...)
}
