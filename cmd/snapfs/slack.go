package main

// Timer slack: how much later than asked the kernel may wake a worker's threads.

import (
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is a worker's. Where anything is under way, a thread of Go's runtime looks every 20 µs, and with the usual slack every
// 70, whether some other one is held up in a system call: thousands of times a second, on the processors that requests want. Nothing
// here sleeps for so short a time that half a millisecond matters.
const timerSlack = 500 * time.Microsecond

// startWithSlack starts a process whose threads have it: a process begins with what the thread that makes it has.
func startWithSlack(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // its own again
	return cmd.Start()
}
