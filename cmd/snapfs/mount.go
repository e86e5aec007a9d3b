package main

// snapfs mount: its flags, and the checks that come before a store is touched.

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// mountSpec is what to mount where, and how.
type mountSpec struct {
	store, mountpoint string // absolute
	foreground        bool
	snapdir           snapdirFlag
	reserve           reserveFlag
	mapMemory         sizeFlag
	verify            bool
	letSleep          bool
}

// letSleepEnv tells the processes of a mount of --let-sleep: an upgrade may go back to a program that does not know the flag.
const letSleepEnv = "SNAPFS_LET_SLEEP"

func (a *app) mountCmd() *cobra.Command {
	spec := mountSpec{snapdir: "hidden", mapMemory: 256 << 20}
	var try bool
	cmd := &cobra.Command{
		Use:   "mount STORE MOUNTPOINT",
		Short: "Serve a store at a mountpoint",
		Long: `Serve the store in the directory STORE at the empty directory MOUNTPOINT; a STORE that is missing or empty is made.
Returns once the mount answers, and leaves a daemon behind that logs to STORE/log.

SIGTERM and SIGINT unmount. While files are in use the daemon serves on and ends with the last of them; a second
signal takes the mount out of the directory tree at once, so that nothing new can be opened.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if spec.letSleep {
				if err := os.Setenv(letSleepEnv, "1"); err != nil {
					return err
				}
			}
			if goesOn() { // it looks at nothing in the mount, which waits for it
				spec.store, spec.mountpoint = args[0], args[1]
				if try {
					return tryKept(spec)
				}
				return a.goOn(cmd.Context(), spec)
			}
			// What a shell has open here is not the daemon's to keep, nor its scripts'.
			_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
			if err := spec.locate(args[0], args[1]); err != nil {
				return err
			}
			if parent := parentPipe(); parent != nil {
				return a.superviseFor(parent, spec)
			}
			kept, err := takeStored(spec)
			if err != nil {
				return err
			}
			if kept == nil { // otherwise the mountpoint is in use, and would wait for us
				if err := a.clearDead(spec.mountpoint); err != nil {
					return err
				}
				if err := spec.checkMountpoint(); err != nil {
					return err
				}
				if err := a.raiseReserve(&spec); err != nil {
					return err
				}
			}
			if spec.foreground {
				return a.supervise(cmd.Context(), spec, newDaemonLog(a.stderr), func() {}, kept)
			}
			return a.startDaemon(cmd.Context(), spec)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&spec.foreground, "foreground", "f", false, "stay in the foreground and log to stderr")
	flags.Var(&spec.snapdir, "snapdir", "whether directories list .snapshots: `hidden|visible`")
	flags.Var(&spec.reserve, "reserve", "refuse writes that take space when less than `SIZE` (16GiB, 5%) is free, at least 128MiB (default 5%, within 128MiB and 4GiB)")
	flags.Var(&spec.mapMemory, "map-memory", "keep at most `SIZE` of maps in memory (default 256MiB)")
	flags.BoolVar(&spec.verify, "verify", false, "compare with its checksum what is read of snapshots: EIO rather than damaged data")
	flags.BoolVar(&spec.letSleep, "let-sleep", os.Getenv(letSleepEnv) != "", "never keep the host's processors awake, as is done while many requests come one at a time")
	flags.BoolVar(&try, tryFlag, false, "say whether this version could go on with a mount, as an upgrade asks")
	flags.Lookup(tryFlag).Hidden = true
	flags.Lookup("map-memory").DefValue = ""
	return cmd
}

// snapdirFlag is hidden or visible.
type snapdirFlag string

func (s *snapdirFlag) String() string { return string(*s) }
func (s *snapdirFlag) Type() string   { return "hidden|visible" }

func (s *snapdirFlag) Set(text string) error {
	if text != "hidden" && text != "visible" {
		return errors.New("it is hidden or visible")
	}
	*s = snapdirFlag(text)
	return nil
}

// args are the arguments of a process that serves this mount.
func (m mountSpec) args() []string {
	args := []string{"mount", "--snapdir=" + m.snapdir.String(), "--map-memory=" + m.mapMemory.String()}
	if m.foreground {
		args = append(args, "--foreground")
	}
	if m.verify {
		args = append(args, "--verify")
	}
	if reserve := m.reserve.String(); reserve != "" {
		args = append(args, "--reserve="+reserve)
	}
	return append(args, "--", m.store, m.mountpoint)
}

// locate makes both paths absolute, for a daemon that leaves the directory it was started in.
func (m *mountSpec) locate(store, mountpoint string) (err error) {
	if m.store, err = filepath.Abs(store); err != nil {
		return err
	}
	m.mountpoint, err = resolve(mountpoint)
	return err
}

// clearDead takes mounts of ours away whose processes are gone: nothing can serve them any more. Who has files open there
// keeps getting errors, and the mountpoint is free.
func (a *app) clearDead(point string) error {
	for {
		if _, err := os.ReadDir(point); !errors.Is(err, unix.ENOTCONN) {
			return nil
		}
		dead, err := mountAtPoint(point)
		if err != nil || dead == nil || dead.fsType != fsType {
			return err
		}
		if err := unmountLazily(point); err != nil {
			return fmt.Errorf("mountpoint %s: clear away a mount whose daemon is gone: %w", point, err)
		}
		fmt.Fprintf(a.stderr, "snapfs: mountpoint %s: cleared away a mount of %s whose daemon is gone\n", point, dead.source)
	}
}

// checkMountpoint refuses, by name, what is no empty directory apart from the store.
func (m mountSpec) checkMountpoint() error {
	point := m.mountpoint
	entries, err := os.ReadDir(point)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return fmt.Errorf("mountpoint %s: a mount whose daemon is gone is in the way, and is none of snapfs; unmount it first", point)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("mountpoint %s does not exist; make the directory first", point)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("mountpoint %s is not a directory", point)
	case err != nil:
		return fmt.Errorf("mountpoint %s: %w", point, err)
	}
	mounted, err := mountAt(point)
	switch {
	case err != nil:
		return err
	case mounted != nil && mounted.fsType == fsType:
		return fmt.Errorf("mountpoint %s: store %s is already mounted there; unmount it first with `snapfs umount %[1]s`", point, mounted.source)
	case len(entries) > 0:
		return fmt.Errorf("mountpoint %s is not empty: mount at an empty directory", point)
	}
	return m.checkApart()
}

// checkApart refuses a store and a mountpoint one of which lies in the other: the store would hide or contain itself.
// Nor does either lie in another mount of ours: making the store would make a VM there.
func (m mountSpec) checkApart() error {
	store, err := resolveMissing(m.store)
	if err != nil {
		return fmt.Errorf("store %s: %w", m.store, err)
	}
	if isWithin(m.mountpoint, store) || isWithin(store, m.mountpoint) {
		return fmt.Errorf("mountpoint %s and store %s lie one in the other: mount elsewhere", m.mountpoint, m.store)
	}
	for what, path := range map[string]string{"store": store, "mountpoint": m.mountpoint} {
		around, err := mountAround(path)
		switch {
		case err != nil:
			return err
		case around != nil && around.fsType == fsType:
			return fmt.Errorf("%s %s lies in the mount of store %s at %s: choose a directory outside of it", what, path, around.source, around.point)
		}
	}
	return nil
}

// isWithin reports whether a path is a directory or lies in it.
func isWithin(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
