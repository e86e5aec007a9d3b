package main

// snapfs upgrade: has a mount served by another version from one moment to the next. The supervisor does it.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// upgradeTime is how long `snapfs upgrade` waits: longer than it may take to try the new version, to end the old worker,
// to wait for the new one and to go back.
var upgradeTime = 3 * time.Minute

func (a *app) upgradeCmd() *cobra.Command {
	var format bool
	cmd := &cobra.Command{
		Use:   "upgrade MOUNTPOINT",
		Short: "Have the installed version serve a mount, while guests go on",
		Long: `Has the program that is installed now, where the mount's was started from, serve the mount. Guests wait for some
tenths of a second. It is tried before; if it does not serve within a minute, the version of before serves on.

SIGHUP to the supervisor (supervisor_pid in status) does the same.

A version leaves a store in the format that it has, so that one can go back to the version of before in the same way. With
--format the store then gets what the format has in the new version. Versions that do not know that refuse it from there on.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.upgrade(cmd.Context(), args[0])
			if err == nil && format {
				err = a.raiseFormat(m.point)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&format, "format", false, "raise the store's format to the newest version; there is no way back")
	return cmd
}

// raiseFormat has a mount's store use all that the format has in the version that serves.
func (a *app) raiseFormat(point string) error {
	p, err := openPlace(point)
	if err != nil {
		return err
	}
	text, err := p.read("status")
	if err != nil {
		return err
	}
	var status struct {
		Version string            `json:"version"`
		Format  *layer.FormatInfo `json:"format"`
	}
	if err := json.Unmarshal(text, &status); err != nil {
		return fmt.Errorf("the status makes no sense: %w", err)
	}
	if status.Format == nil {
		return fmt.Errorf("%s: version %s, which serves it, knows of one version of the format only", point, status.Version)
	}
	if _, err := p.tell("format", fmt.Appendln(nil, status.Format.Newest)); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: its store has version %d of the format\n", point, status.Format.Newest)
	return nil
}

// served is what the status of a mount says of who serves it.
type served struct {
	Worker     int        `json:"worker_pid"`
	Supervisor *int       `json:"supervisor_pid"`
	Restarts   int        `json:"restarts"`
	LastExit   *string    `json:"last_exit"`
	Version    string     `json:"version"`
	Refused    fs.Refusal `json:"refused_upgrades"`
}

// askServed has another process ask a mount: who waits for one that does not answer can't even be killed.
func askServed(ctx context.Context, point string) (s served, err error) {
	cmd := exec.Command("/proc/self/exe", "status", "--json", point)
	var said, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complaint
	if err := cmd.Start(); err != nil {
		return s, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = cmd.Process.Kill() // it ends once somebody serves the mount
		return s, ctx.Err()
	}
	if err != nil && complaint.Len() > 0 {
		return s, errors.New(strings.TrimPrefix(complaint.String(), "snapfs: "))
	}
	if err == nil {
		err = json.Unmarshal(said.Bytes(), &s)
	}
	return s, err
}

// upgrade returns the mount that the installed version serves then.
func (a *app) upgrade(ctx context.Context, mountpoint string) (*mountEntry, error) {
	m, err := mountAt(mountpoint)
	if err != nil {
		return nil, err
	}
	if m == nil || m.fsType != fsType {
		return nil, fmt.Errorf("%s is no snapfs mount", mountpoint)
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	before, err := askServed(ctx, m.point)
	if err != nil {
		return nil, unanswered(m, err)
	}
	if before.Supervisor == nil {
		return nil, fmt.Errorf("%s: its supervisor is gone, so nothing can take over; unmount and mount it", m.point)
	}
	if err := unix.Kill(*before.Supervisor, unix.SIGHUP); err != nil {
		return nil, fmt.Errorf("asking the supervisor, process %d: %w", *before.Supervisor, err)
	}
	defer a.working("waiting for the new version")()
	for {
		now, err := askServed(ctx, m.point)
		switch {
		case err != nil:
			return nil, unanswered(m, err)
		case now.Refused.Count > before.Refused.Count:
			return nil, fmt.Errorf("%s: version %s serves on: upgrade failed: %s", m.point, now.Version, now.Refused.Why)
		case now.Restarts == before.Restarts || now.LastExit == nil:
		case *now.LastExit == upgraded:
			fmt.Fprintf(a.stdout, "%s is served by version %s, process %d\n", m.point, now.Version, now.Worker)
			return m, nil
		default:
			return nil, fmt.Errorf("%s: version %s serves on: %s", m.point, now.Version, *now.LastExit)
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return nil, fmt.Errorf("%s: version %s serves on: its supervisor, process %d, has not replaced it within %v; see the log of %s",
				m.point, now.Version, *before.Supervisor, upgradeTime, m.source)
		}
	}
}

// unanswered says what to make of a mount that nobody could ask.
func unanswered(m *mountEntry, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s has not answered for %v: nobody serves it at present; %s/log (or its daemon's stderr) says why", m.point, upgradeTime, m.source)
}
