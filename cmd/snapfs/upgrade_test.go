package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Versions that can't serve, each in another way: the one of before goes on, and guests notice nothing.
func TestUpgradeToWhatDoesNotServe(t *testing.T) {
	program, store, point := newInstalled(t)
	f, err := os.OpenFile(filepath.Join(point, "web", "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	for i, c := range []struct {
		version  programVersion
		says     string
		restarts int
	}{
		{hangs, "the new version did not come up: its worker did not serve within 1s", 1},
		{cantTakeOver, "can't take over: exit status 2: panic: what was kept makes no sense", 1},
		{diesAtRequests, "the new version did not come up: exit status 2", 2},
	} {
		_, err := f.WriteAt([]byte{'0' + byte(i)}, 0)
		require.NoError(t, err)
		install(t, program, c.version)
		line := refused(t, "upgrade", point)
		require.Contains(t, line, "serves on: upgrade failed: ")
		require.Contains(t, line, c.says)
		require.Equal(t, string('0'+byte(i)), start(t, f.Name(), 1), "not flushed, and there")
		require.Equal(t, c.restarts, restartsOf(t, point), "who can't take over is not let to")
	}
	log := done(t, "log", point)
	require.Equal(t, 1, strings.Count(log, "upgrade-failed error="), log)
	require.NotContains(t, done(t, "log", point), "request-refused")
	install(t, program, asItIs)
	require.Contains(t, done(t, "upgrade", point), "is served by version")
	require.Contains(t, readLog(t, store), "becoming "+program)
}

// Where nobody answers, upgrade ends all the same.
func TestUpgradeOfWhatDoesNotAnswer(t *testing.T) {
	_, point := newMount(t)
	p := statusOf(t, point)
	require.NoError(t, unix.Kill(p.Supervisor, unix.SIGSTOP))
	defer func() { require.NoError(t, unix.Kill(p.Supervisor, unix.SIGCONT)) }()
	require.NoError(t, unix.Kill(p.Worker, unix.SIGSTOP))
	defer func() { require.NoError(t, unix.Kill(p.Worker, unix.SIGCONT)) }()
	defer func(d time.Duration) { upgradeTime = d }(upgradeTime)
	upgradeTime = 100 * time.Millisecond
	require.Contains(t, refused(t, "upgrade", point), point+" has not answered for 100ms")
}

// Who asks for another version while the supervisor becomes one does not end the mount.
func TestManyUpgradesAtOnce(t *testing.T) {
	store, point := newMount(t)
	f, err := os.Open(filepath.Join(newVM(t, point, "web", "hello"), "root.img"))
	require.NoError(t, err)
	defer f.Close()
	daemon := watchDaemon(point)
	defer daemon.close()
	p := statusOf(t, point)
	for strings.Count(readLog(t, store), "becoming ") < 10 {
		require.NoError(t, unix.Kill(p.Supervisor, unix.SIGHUP))
		time.Sleep(time.Duration(rand.IntN(3_000)) * time.Microsecond)
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(daemon.pidfd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			require.NoError(t, err)
			require.Zero(t, ended)
		}
	}
	require.Equal(t, "hello", start(t, f.Name(), 5))
	require.Equal(t, p.Supervisor, statusOf(t, point).Supervisor)
}
