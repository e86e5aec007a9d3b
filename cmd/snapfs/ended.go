package main

// How a worker ended: killed by somebody, by its own decision, or by a panic or a fault, which can come again.

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
)

// panicExit is the exit code of Go's runtime, after a panic, a fatal error, or a signal that says there is a fault.
const panicExit = 2

// faults are the signals of faults, as they end a process that Go's runtime has no say in.
var faults = []syscall.Signal{
	syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT, syscall.SIGILL, syscall.SIGFPE, syscall.SIGTRAP, syscall.SIGSYS,
}

// crashed says whether a worker ended by a panic or a fault.
func crashed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status := exit.Sys().(syscall.WaitStatus)
	return status.Exited() && status.ExitStatus() == panicExit || status.Signaled() && slices.Contains(faults, status.Signal())
}

// howEnded says it in words, with how many requests were under way.
func howEnded(err error, running int) string {
	text := oneLine(err.Error())
	if !crashed(err) {
		return text
	}
	return fmt.Sprintf("panic or fault (%s), requests under way: %d", text, running)
}
