package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The file of events stays small, whoever writes how much, and keeps of each VM what is newest.
func TestEventsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	require.NoError(t, os.WriteFile(path, []byte("2026-03-01T11:00:00Z create vm=db snapshot=one\n2026-03-01T11:0"), 0o600))
	const limit = 16 << 10
	events, past, err := openEvents(path, limit)
	require.NoError(t, err)
	require.Equal(t, "2026-03-01T11:00:00Z create vm=db snapshot=one\n2026-03-01T11:0\n", past)
	const lines = 2000
	for i := range lines {
		_, err := fmt.Fprintf(events, "2026-03-01T11:00:00Z create-failed vm=loud n=%d\n", i)
		require.NoError(t, err)
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.LessOrEqual(t, st.Size(), int64(limit))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(text), "2026-03-01T11:00:00Z create vm=db snapshot=one\n"))
	require.True(t, strings.HasSuffix(string(text), fmt.Sprintf("vm=loud n=%d\n", lines-1)))

	// A directory in the way is what a full disk is: no line, and no try for each of them.
	require.NoError(t, os.Mkdir(path+".new", 0o700))
	more := func() error {
		_, err := events.Write([]byte("2026-03-01T11:00:00Z create-failed vm=loud\n"))
		return err
	}
	for range limit {
		if err = more(); err != nil {
			break
		}
	}
	require.Error(t, err)
	require.NoError(t, os.Remove(path+".new"))
	require.Equal(t, err, more())
	require.NoError(t, events.Close())

	_, _, err = openEvents(filepath.Join(path, "in a file"), limit)
	require.ErrorContains(t, err, "opening the events")
}
