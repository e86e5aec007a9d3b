package main

// Waiting for the end of a mount's daemon, and how that went.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// daemonWatch waits for the end of a mount's daemon. It holds the process itself, not its number, which another could
// have by then; a mount whose daemon is dead or can't be asked has nothing to wait for.
type daemonWatch struct{ pidfd int }

func watchDaemon(point string) daemonWatch {
	none := daemonWatch{pidfd: -1}
	text, err := readControl(filepath.Join(point, layer.SnapDir, "status"))
	if err != nil {
		return none
	}
	var status struct {
		Worker     int  `json:"worker_pid"`
		Supervisor *int `json:"supervisor_pid"`
	}
	if json.Unmarshal(text, &status) != nil {
		return none
	}
	pid := status.Worker
	if status.Supervisor != nil {
		pid = *status.Supervisor
	}
	if pid == os.Getpid() {
		return none
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return none
	}
	return daemonWatch{pidfd: pidfd}
}

func (d daemonWatch) close() {
	if d.pidfd >= 0 {
		unix.Close(d.pidfd)
	}
}

// forever is longer than any wait.
const forever = time.Duration(math.MaxInt64)

// wait returns when the process has ended, or the time is up.
func (d daemonWatch) wait(ctx context.Context, atMost time.Duration) (ended bool, err error) {
	for began := time.Now(); time.Since(began) < atMost; {
		if d.pidfd < 0 {
			return true, nil
		}
		fds := []unix.PollFd{{Fd: int32(d.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		switch {
		case n > 0:
			return true, nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("waiting for the daemon: %w", err)
		case ctx.Err() != nil:
			return false, ctx.Err()
		}
	}
	return false, nil
}

// reapTime is how long the parent of a daemon that has ended may take to notice: from then on the kernel tells others, too.
const reapTime = time.Second

// verdict says how a daemon that has ended closed its store, as far as that can be known: Linux tells it from version 6.15 on.
func (d daemonWatch) verdict(m mountEntry) error {
	if d.pidfd < 0 {
		return nil
	}
	for began := time.Now(); time.Since(began) < reapTime; {
		fds := []unix.PollFd{{Fd: int32(d.pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == nil && fds[0].Revents&unix.POLLHUP != 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if unix.IoctlPidfdInfo(d.pidfd, &info) != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 || info.Exit_code == 0 {
		return nil
	}
	return fmt.Errorf("%s is unmounted, but its store was not closed in order: %s/log says why, where that can be written; "+
		"what guests had flushed is safe", m.point, m.source)
}
