package main

// snapfs umount: takes a mount down and returns once its store is closed.

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) umountCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "umount MOUNTPOINT",
		Short: "Unmount, and wait until the store is closed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.umount(cmd.Context(), args[0])
		},
	}
}

func (a *app) umount(ctx context.Context, mountpoint string) error {
	m, err := mountAt(mountpoint)
	if err != nil {
		return err
	}
	if m == nil || m.fsType != fsType {
		return fmt.Errorf("%s is no snapfs mount", mountpoint)
	}
	daemon := watchDaemon(m.point)
	defer daemon.close()
	if err := unmountPatiently(ctx, m.point); err != nil {
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmounting %s: %w", m.point, err)
		}
		return busyError(*m)
	}
	return a.awaitEnd(ctx, daemon, *m)
}

// awaitEnd waits until the daemon has closed the store, and says what it still serves if that takes long.
func (a *app) awaitEnd(ctx context.Context, daemon daemonWatch, m mountEntry) error {
	if ended, err := daemon.wait(ctx, quietFor); err != nil {
		return err
	} else if ended {
		return daemon.verdict(m)
	}
	if held := heldElsewhere(m); len(held) > 0 {
		fmt.Fprintf(a.stderr, "snapfs: unmounted here; the store stays open for what is in use elsewhere: %s\n", showHolders(held))
	}
	defer a.working("closing the store")()
	if _, err := daemon.wait(ctx, forever); err != nil {
		return err
	}
	return daemon.verdict(m)
}

// busyError says who must go first.
func busyError(m mountEntry) error {
	held := holders(m)
	if len(held) == 0 {
		return fmt.Errorf("%s is busy: a process out of sight uses it; try as root", m.point)
	}
	return fmt.Errorf("%s is busy, end what uses it first: %s", m.point, showHolders(held))
}

// unmountPatiently gives those who are just letting go a second for it.
func unmountPatiently(ctx context.Context, point string) error {
	deadline := time.Now().Add(time.Second)
	for {
		err := unmount(point)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// unmount is umount2(2), or what a user without rights to it is given in its stead.
func unmount(point string) error { return unmountBy(point, 0, "-u") }

// unmountLazily unmounts, whoever uses what is mounted.
func unmountLazily(point string) error { return unmountBy(point, unix.MNT_DETACH, "-uz") }

func unmountBy(point string, flag int, helperFlag string) error {
	err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW|flag)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	out, helperErr := exec.Command("fusermount3", helperFlag, "--", point).CombinedOutput()
	switch {
	case helperErr == nil:
		return nil
	case strings.Contains(strings.ToLower(string(out)), unix.EBUSY.Error()):
		return unix.EBUSY
	}
	return fmt.Errorf("%w (fusermount3: %s)", err, oneLine(string(out)))
}

// pause sleeps, unless there is no time for it.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
