package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newTerminal opens a terminal: what a command has, and the person's side of it.
func newTerminal(t *testing.T) (terminal, person *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { person.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { terminal.Close() })
	require.NoError(t, unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	return terminal, person
}

func TestDestroyAsks(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	done(t, "create", vm, "base")
	done(t, "preview", vm, "base")
	terminal, person := newTerminal(t)
	for _, c := range []struct {
		says string
		code int
	}{{"no\n", exitFailed}, {"yes\n", exitDone}} {
		require.DirExists(t, vm)
		_, err := person.WriteString(c.says)
		require.NoError(t, err)
		var stdout bytes.Buffer
		require.Equal(t, c.code, run(context.Background(), []string{"destroy", vm}, terminal, &stdout, io.Discard))
		require.Contains(t, stdout.String(), "1 file, 1 snapshot")
		require.Contains(t, stdout.String(), "root.img (1.0MiB)")
		require.Contains(t, stdout.String(), "base (")
		require.Contains(t, stdout.String(), "preview   of base")
	}
	require.NoDirExists(t, vm)
}

// screen gathers what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

func TestProgress(t *testing.T) {
	terminal, person := newTerminal(t)
	var seen screen
	go func() { _, _ = io.Copy(&seen, person) }()
	a := &app{stderr: terminal}
	bar := a.newProgress("importing")
	bar.set(50)
	require.Eventually(t, func() bool { return seen.shows("importing  50% |") }, patience, 10*time.Millisecond)
	bar.set(75)
	require.Eventually(t, func() bool { return seen.shows("importing  75% |") }, patience, 10*time.Millisecond)
	bar.finish()
	finish := a.working("waiting")
	require.Eventually(t, func() bool { return seen.shows("waiting") }, patience, 10*time.Millisecond)
	finish()
}

func TestNoProgressWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	a := &app{stderr: &out}
	bar := a.newProgress("importing")
	bar.set(50)
	bar.finish()
	a.working("waiting")()
	require.Empty(t, out.String())
}
