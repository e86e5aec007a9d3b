package quiesce

// Where QEMU was started: what a relative path of a disk is meant from.

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// directory is the working directory of the process behind the monitor's socket; empty if that can't be told, as through
// libvirt, which gives QEMU full paths.
func (q *QMP) directory() string {
	c, ok := q.peer.(*qmpConn)
	if !ok || c.s == nil {
		return ""
	}
	conn, ok := c.s.conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return ""
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || peerErr != nil {
		return ""
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", peer.Pid))
	if err != nil {
		return ""
	}
	return dir
}
