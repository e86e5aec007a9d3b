package main

// The service manager that a supervisor in the foreground runs under, such as systemd: it is told how the mount stands,
// and keeps the session and the mount's descriptors, so that guests go on even if all processes of the mount are killed.
// The protocol is that of sd_notify(3) and sd_listen_fds(3).

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const notifyEnv = "NOTIFY_SOCKET"

// manager is where its messages go; with the zero value, to nobody.
type manager struct {
	address string // of a socket; @ begins an abstract one
	mount   string // what the names of this mount's descriptors end with
}

func managerOf(spec mountSpec) manager {
	if !spec.foreground { // the manager watches over somebody else
		return manager{}
	}
	return manager{os.Getenv(notifyEnv), spec.fingerprint()}
}

// say tells lines such as READY=1, and hands descriptors over with them.
func (m manager) say(lines []string, fds ...int) error {
	if m.address == "" {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer unix.Close(socket)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	to := &unix.SockaddrUnix{Name: m.address}
	if err := unix.Sendmsg(socket, []byte(strings.Join(lines, "\n")), rights, to, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

// Descriptors are kept under the name of what they are and the mount they belong to.
const (
	keptSession = "session-"
	keptDevice  = "device-"
)

// keep has the manager keep what a mount lives on. The session goes first: devices without it are of no use. The manager
// is not to look whether the mount still is (FDPOLL): whoever takes it back finds out, and closes the store.
func (m manager) keep(session int, devices []int) error {
	return errors.Join(
		m.say([]string{"FDSTORE=1", "FDPOLL=0", "FDNAME=" + keptSession + m.mount}, session),
		m.say([]string{"FDSTORE=1", "FDPOLL=0", "FDNAME=" + keptDevice + m.mount}, devices...),
	)
}

// drop has it close what it keeps of a mount that is over.
func (m manager) drop() error {
	return errors.Join(
		m.say([]string{"FDSTOREREMOVE=1", "FDNAME=" + keptDevice + m.mount}),
		m.say([]string{"FDSTOREREMOVE=1", "FDNAME=" + keptSession + m.mount}),
	)
}

// fingerprint tells mounts apart.
func (m mountSpec) fingerprint() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(m.store + "\x00" + m.mountpoint))
	return fmt.Sprintf("%016x", h.Sum64())
}

// takeStored takes back what the manager kept of a mount whose processes are all gone; nil if there is none.
func takeStored(spec mountSpec) (*handover, error) {
	const first = 3
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	count, _ := strconv.Atoi(n)
	if !spec.foreground || pid != strconv.Itoa(os.Getpid()) || count == 0 {
		return nil, nil
	}
	k := &handover{Restarts: 1, LastExit: allKilled}
	if len(names) != count {
		return nil, fmt.Errorf("the service manager passes %d descriptors with %d names", count, len(names))
	}
	for i, name := range names {
		switch fd := first + i; name {
		case keptSession + spec.fingerprint():
			k.Session = fd
		case keptDevice + spec.fingerprint():
			k.Devices = append(k.Devices, fd)
		default: // closing it would end that mount for its guests
			return nil, fmt.Errorf("the service manager keeps %q, which is not of a mount of %s at %s; stop the service to let go of it",
				name, spec.store, spec.mountpoint)
		}
	}
	if k.Session == 0 || k.Devices == nil { // killed while it mounted
		for fd := first; fd < first+count; fd++ {
			unix.Close(fd)
		}
		return nil, managerOf(spec).drop()
	}
	return k, nil
}

// allKilled is how the worker of before ended, as far as the one that starts anew can know.
const allKilled = "all processes of the mount ended; the service manager kept it"
