package main

// The guard of an upgrade: a process of the version of before, which has what the mount lives on while the supervisor becomes
// another program. If that ends or hangs before a worker of its own is there, the guard becomes the mount's supervisor.
//
// It asks nothing of the new program. Whether a worker is there shows in the store's lock, and that one has answered, by now or
// at any time since, in the session. Under a service manager there is none: the manager does the same.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// guardTime is how long a guard waits for an answer: longer than it takes to give a new version its minute and go back.
var guardTime = 3 * time.Minute

const guardEvery = 100 * time.Millisecond

// guardEnv makes a process a guard, or what starts one and ends, so that it is no child of the supervisor's.
const (
	guardEnv     = "SNAPFS_GUARD"
	guardParent  = "parent"
	guardItself  = "guard"
	guardedPidfd = 3 // of the supervisor; the session and the devices follow
)

// guard starts one. No worker is there.
func (s *supervisor) guard() error {
	if s.manager.address != "" {
		return nil
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	files := []*os.File{os.NewFile(uintptr(pidfd), "supervisor")}
	defer func() { closeFiles(files) }()
	k := s.kept("upgrade failed: the new version ended, or did nothing, before it had a worker")
	k.Old, k.Session, k.Devices, k.Answers = 0, guardedPidfd+1, nil, s.session.Answers()
	for i, fd := range append([]int{s.session.FD()}, s.devices...) {
		f, err := duplicate(fd, "mount")
		if err != nil {
			return err
		}
		files = append(files, f)
		if i > 0 {
			k.Devices = append(k.Devices, guardedPidfd+1+i)
		}
	}
	text, err := k.text()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", s.spec.args()...)
	cmd.ExtraFiles = files
	if out, ok := s.log.out.(*os.File); ok && s.spec.foreground {
		cmd.Stderr = out
	}
	cmd.Env = append(os.Environ(), keptEnv+"="+text, guardEnv+"="+guardParent)
	return cmd.Run()
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// startGuard starts the guard with all that this process was given.
func startGuard(spec mountSpec, k *handover) error {
	text, err := k.text()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", spec.args()...)
	cmd.Dir = "/"
	for fd := guardedPidfd; fd <= guardedPidfd+1+len(k.Devices); fd++ {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), "mount"))
	}
	if spec.foreground {
		cmd.Stderr = os.Stderr
	}
	cmd.Env = append(os.Environ(), keptEnv+"="+text, guardEnv+"="+guardItself)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// keepGuard is what a guard does.
func (a *app) keepGuard(ctx context.Context, spec mountSpec, k *handover, as string) error {
	if as == guardParent {
		return startGuard(spec, k)
	}
	needed, err := awaitSuccessor(spec, k)
	if err != nil || !needed {
		return err
	}
	log := newDaemonLog(nil)
	if spec.foreground {
		log = newDaemonLog(a.stderr)
	}
	return a.supervise(ctx, spec, log, func() {}, k)
}

// awaitSuccessor returns when the mount is in other hands, or needs this process.
func awaitSuccessor(spec mountSpec, k *handover) (needed bool, err error) {
	unix.CloseOnExec(guardedPidfd)
	own, err := unix.FcntlInt(uintptr(k.Session), unix.F_DUPFD_CLOEXEC, 0) // as the session closes its descriptor
	if err != nil {
		return false, err
	}
	session, err := layer.AdoptSession(own)
	if err != nil {
		return false, err
	}
	supervisor := daemonWatch{guardedPidfd}
	defer supervisor.close()
	ended := false
	for deadline := time.Now().Add(guardTime); !ended && time.Now().Before(deadline); {
		if session.Answers() != k.Answers {
			return false, nil
		}
		if ended, err = supervisor.wait(context.Background(), guardEvery); err != nil {
			return false, err
		}
	}
	if !ended {
		if isLocked(spec.store) {
			return false, nil // by a worker that nobody has asked anything
		}
		_ = unix.PidfdSendSignal(guardedPidfd, unix.SIGKILL, nil, 0)
	}
	for session.Answers() == k.Answers {
		if !isLocked(spec.store) { // by a worker that is alone now
			return onlyGuard(k)
		}
		time.Sleep(guardEvery)
	}
	return false, nil
}

// isLocked says whether anybody has a store open.
func isLocked(store string) bool {
	f, err := os.Open(filepath.Join(store, "lock"))
	if err != nil {
		return false // its disk may be away; whoever starts a worker says so
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// onlyGuard says whether no other guard, of an earlier upgrade, is on its way. It stays locked while this process is.
func onlyGuard(k *handover) (bool, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", k.Session), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil, nil
}
