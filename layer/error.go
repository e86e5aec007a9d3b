package layer

// Errors: every one that leaves the package carries the errno for the file and one line for a person.

import (
	"errors"
	"fmt"
	"syscall"
)

// Error is a failed operation: the errno that the file's user gets, and one clear line for a person.
type Error struct {
	Errno syscall.Errno
	Text  string
	cause error
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the errno, for errors.Is(err, syscall.EEXIST), and what caused it.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Errno}
	}
	return []error{e.Errno, e.cause}
}

// Errorf makes an Error. A %w among the args becomes its cause.
func Errorf(errno syscall.Errno, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Errno: errno, Text: err.Error(), cause: errors.Unwrap(err)}
}

// ErrWait says that a call with wait=false would have had to block. Nothing was done; the same call with
// wait=true does it.
var ErrWait = errors.New("the call has to wait")

// Errno is what a file's user gets for err: 0 for nil, EIO for whatever names no errno of its own.
//
// Never ENOSYS, which makes the kernel stop asking and report success from then on; never EINTR or EAGAIN,
// which callers of write and fsync do not expect of a disk.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var layerErr *Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &layerErr):
		errno = layerErr.Errno
	case !errors.As(err, &errno):
		return syscall.EIO
	}
	switch errno {
	case 0, syscall.ENOSYS, syscall.EINTR, syscall.EAGAIN:
		return syscall.EIO
	}
	return errno
}
