package main

// Upgrading: a mount is served by another version from one moment to the next. The worker ends once no command is
// under way; the supervisor becomes the new program, with the descriptors, the session and its process id kept; that
// starts a worker of its own. If none comes up, it becomes the old program again.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// upgradeTime is how long a new version may take to come up before `snapfs upgrade` stops waiting for it.
const upgradeTime = 3 * time.Minute

func (a *app) upgradeCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade MOUNTPOINT",
		Short: "Have the installed version serve a mount, while guests go on",
		Long: `Has the program that is installed now, where the mount's was started from, serve the mount. Guests wait for some
tenths of a second. If it does not come up, the version of before serves on.

SIGHUP to the supervisor (supervisor_pid in status) does the same.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.upgrade(cmd.Context(), args[0]) },
	}
}

// served is what the status of a mount says of who serves it.
type served struct {
	Worker     int     `json:"worker_pid"`
	Supervisor *int    `json:"supervisor_pid"`
	Restarts   int     `json:"restarts"`
	LastExit   *string `json:"last_exit"`
	Version    string  `json:"version"`
}

func readServed(point string) (s served, err error) {
	text, err := os.ReadFile(filepath.Join(point, layer.SnapDir, "status"))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

func (a *app) upgrade(ctx context.Context, mountpoint string) error {
	m, err := mountAt(mountpoint)
	if err != nil {
		return err
	}
	if m == nil || m.fsType != fsType {
		return fmt.Errorf("%s is no snapfs mount", mountpoint)
	}
	before, err := readServed(m.point)
	if err != nil {
		return err
	}
	if before.Supervisor == nil {
		return fmt.Errorf("%s: its supervisor is gone, so nothing can take over; unmount and mount it", m.point)
	}
	if err := unix.Kill(*before.Supervisor, unix.SIGHUP); err != nil {
		return fmt.Errorf("asking the supervisor, process %d: %w", *before.Supervisor, err)
	}
	defer a.working("waiting for the new version")()
	for deadline := time.Now().Add(upgradeTime); time.Now().Before(deadline); {
		now, err := readServed(m.point)
		switch {
		case err != nil:
			return err
		case now.Restarts == before.Restarts || now.LastExit == nil:
		case *now.LastExit == upgraded:
			fmt.Fprintf(a.stdout, "%s is served by version %s, process %d\n", m.point, now.Version, now.Worker)
			return nil
		default:
			return fmt.Errorf("%s: version %s serves on: %s", m.point, now.Version, *now.LastExit)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the worker does not end: a command may be under way; see `snapfs log`")
}

// upgraded is how a worker ended that an upgrade replaced.
const upgraded = "replaced by an upgrade"

// keptEnv hands a mount on to the program that the supervisor becomes.
const keptEnv = "SNAPFS_KEPT"

// handover is what one program leaves to the next.
type handover struct {
	Session  int    `json:"session"` // descriptor
	Devices  []int  `json:"devices"` // descriptors
	Old      int    `json:"old"`     // descriptor of the program of before, to return to; 0: this is it
	Program  string `json:"program"` // where the next version will be
	Restarts int    `json:"restarts"`
	LastExit string `json:"last_exit"`
}

// takeKept takes over what a supervisor of before kept, if this process was one.
func takeKept() (*handover, error) {
	text, ok := os.LookupEnv(keptEnv)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(keptEnv)
	k := new(handover)
	if err := json.Unmarshal([]byte(text), k); err != nil {
		return nil, fmt.Errorf("%s: %w", keptEnv, err)
	}
	for _, fd := range append([]int{k.Session, k.Old}, k.Devices...) {
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return k, nil
}

// tryProgram says whether a program is snapfs, and runs at all: once this process has become another there is no way
// back but by that one.
func tryProgram(program string) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	switch {
	case err != nil:
		return fmt.Errorf("%s --version: %w", program, err)
	case !strings.HasPrefix(string(out), "snapfs "):
		return fmt.Errorf("%s is not snapfs", program)
	}
	return nil
}

// tryTime is how long a program may take to say its version.
const tryTime = 10 * time.Second

// become turns this process into another program, or returns why it could not.
func (k *handover) become(program string, args []string) error {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	fds := append([]int{k.Session}, k.Devices...)
	if k.Old != 0 {
		fds = append(fds, k.Old)
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	err = unix.Exec(program, append([]string{os.Args[0]}, args...), append(os.Environ(), keptEnv+"="+string(text)))
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fmt.Errorf("start %s: %w", program, err)
}
