package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{io.ErrUnexpectedEOF, syscall.EIO},
		{syscall.ENOSPC, syscall.ENOSPC},
		{fmt.Errorf("write: %w", syscall.ENOSPC), syscall.ENOSPC},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, syscall.ENOENT},
		{Errorf(syscall.EEXIST, "there is a %q already", "x"), syscall.EEXIST},
		{fmt.Errorf("create: %w", Errorf(syscall.EEXIST, "there")), syscall.EEXIST},
		{Errorf(syscall.EIO, "sync: %w", syscall.ENOSPC), syscall.EIO}, // the outer one was chosen
		{errors.Join(io.EOF, Errorf(syscall.ENOSPC, "full")), syscall.ENOSPC},
		// These three would do harm at the mount.
		{syscall.ENOSYS, syscall.EIO},
		{syscall.EINTR, syscall.EIO},
		{syscall.EAGAIN, syscall.EIO},
		{fmt.Errorf("sync: %w", syscall.ENOSYS), syscall.EIO},
		{Errorf(syscall.ENOSYS, "fallocate"), syscall.EIO},
		{Errorf(syscall.EAGAIN, "fallocate"), syscall.EIO},
		{Errorf(0, "nothing"), syscall.EIO},
		{syscall.Errno(0), syscall.EIO},
		{ErrWait, syscall.EIO},
	} {
		require.Equal(t, test.want, Errno(test.err), "%v", test.err)
	}
}

func TestErrorUnwraps(t *testing.T) {
	cause := errors.New("the disk is gone")
	err := Errorf(syscall.EIO, "sync %s: %w", "x", cause)
	require.EqualError(t, err, "sync x: the disk is gone")
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, syscall.EIO)
	require.NotErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, Errorf(syscall.EEXIST, "no cause"), syscall.EEXIST)
}
