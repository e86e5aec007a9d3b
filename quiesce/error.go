package quiesce

// Errors: no answer in time is ETIMEDOUT, a bad policy or request EINVAL, all else EIO.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unicode"
)

// Error is a failure with the errno that the snapshot fails with, and one line for a person.
type Error struct {
	Errno syscall.Errno // ETIMEDOUT, EINVAL or EIO
	Text  string
	cause error
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the errno first, so that an errno of the cause, as of a refused connection, is not taken for it.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Errno}
	}
	return []error{e.Errno, e.cause}
}

// CommandError is an error that a guest agent or monitor answered with.
type CommandError struct {
	Class string // as "CommandNotFound"; empty if virsh did not tell
	Desc  string
}

func (e *CommandError) Error() string { return e.Desc }

// failed wraps what went wrong while doing what the format says.
func failed(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if timedOut(err) {
		return &Error{Errno: syscall.ETIMEDOUT, Text: what + ": no answer in time", cause: err}
	}
	return &Error{Errno: syscall.EIO, Text: what + ": " + err.Error(), cause: err}
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// printable is what a guest said, fit for a log or a terminal: one line, of at most 200 characters.
func printable(text string) string {
	const most = 200
	var line []rune
	for _, r := range strings.TrimSpace(text) {
		if !unicode.IsPrint(r) {
			r = ' '
		}
		if line = append(line, r); len(line) == most {
			return string(line) + "…"
		}
	}
	return string(line)
}

func invalid(format string, args ...any) error {
	return &Error{Errno: syscall.EINVAL, Text: fmt.Sprintf(format, args...)}
}

// answered says whether the peer answered with an error: the connection is sound, and what comes next is in step.
func answered(err error) bool {
	var e *CommandError
	return errors.As(err, &e)
}
