package fs

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stubborn is a disk that takes a line when it is let, or none at all.
type stubborn struct {
	let chan struct{}

	mu    sync.Mutex
	fails bool
	text  strings.Builder
}

func (s *stubborn) Write(p []byte) (int, error) {
	<-s.let
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return 0, errors.New("no space left on device")
	}
	return s.text.Write(p)
}

func (s *stubborn) setFails(fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = fails
}

// Nobody who tells of an event waits for a disk that does not move, or for another place where lines go; what there is
// no room for is counted, where it is missing.
func TestEventsOnStandingDisk(t *testing.T) {
	disk := &stubborn{let: make(chan struct{})}
	var beside strings.Builder
	l := NewEventLog(disk, &beside)
	const more = 17
	for i := range maxWaiting + more {
		l.Add("web", "event", "n", i)
		if i == 0 { // it is the one that the disk is about
			require.Eventually(t, func() bool {
				w := l.outs[0]
				w.mu.Lock()
				defer w.mu.Unlock()
				return len(w.lines) == 0
			}, time.Minute, time.Millisecond)
		}
		if i%1000 == 0 {
			l.outs[1].drain(nil)
		}
	}
	require.Contains(t, l.Text("web"), fmt.Sprintf("n=%d\n", maxWaiting+more-1), "log has them all")
	l.outs[1].drain(nil)
	require.Equal(t, maxWaiting+more, strings.Count(beside.String(), "\n"))
	close(disk.let)
	l.Drain(time.Minute)
	lines := strings.Split(strings.TrimSpace(disk.text.String()), "\n")
	require.Len(t, lines, 1+maxWaiting+1)
	require.Contains(t, lines[maxWaiting], fmt.Sprintf("n=%d", maxWaiting))
	require.Contains(t, lines[maxWaiting+1], fmt.Sprintf("events-dropped lines=%d", more-1))
}

func TestEventsOnFullDisk(t *testing.T) {
	disk := &stubborn{let: make(chan struct{})}
	close(disk.let)
	disk.setFails(true)
	l := NewEventLog(disk)
	for i := range 3 {
		l.Add("web", "event", "n", i)
		l.Drain(time.Minute)
	}
	disk.setFails(false)
	for i := range 2 {
		l.Add("web", "event", "n", 3+i)
		l.Drain(time.Minute)
	}
	lines := strings.Split(strings.TrimSpace(disk.text.String()), "\n")
	require.Len(t, lines, 3)
	for i, want := range []string{"n=3", "events-dropped lines=3", "n=4"} {
		require.Contains(t, lines[i], want)
	}
}
