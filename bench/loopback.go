package main

// A rival that does nothing but FUSE: see the program in loopback/.

import (
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stretchr/testify/require"
)

// newLoopback mounts a directory until the scope ends, and returns where, and the server's process id.
func newLoopback(s *scope, dir string) (mountpoint string, pid int) {
	program := filepath.Join(s.temp(), "loopback")
	run(s, "go", "build", "-o", program, "./bench/loopback")
	mountpoint = s.temp()
	cmd := exec.Command(program, dir, mountpoint)
	start(s, cmd)
	s.cleanup(func() {
		require.NoError(s, unix.Unmount(mountpoint, 0))
		require.NoError(s, cmd.Wait())
	})
	awaitFUSE(s, mountpoint)
	return mountpoint, cmd.Process.Pid
}
