package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	opened := 0
	log, err := openRotating(path, 20, func(*os.File) { opened++ })
	require.NoError(t, err)
	for i := range 9 {
		_, err := fmt.Fprintf(log, "line %d.\n", i) // 8 bytes: two of them to a file
		require.NoError(t, err)
	}
	require.NoError(t, log.Close())
	for name, want := range map[string]string{
		"": "line 8.\n", ".1": "line 6.\nline 7.\n", ".2": "line 4.\nline 5.\n",
	} {
		got, err := os.ReadFile(path + name)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	require.NoFileExists(t, path+".3")
	require.Equal(t, 5, opened)
}

func TestRotationGoesOnWhereItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte("of yesterday\n"), 0o600))
	log, err := openRotating(path, 20, nil)
	require.NoError(t, err)
	long := strings.Repeat("x", 50) + "\n"
	for _, line := range []string{"today\n", long, "after\n"} {
		_, err := log.Write([]byte(line))
		require.NoError(t, err)
	}
	require.NoError(t, log.Close())
	for name, want := range map[string]string{"": "after\n", ".1": long, ".2": "of yesterday\ntoday\n"} {
		got, err := os.ReadFile(path + name)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

func TestDaemonLogKeepsWhatWasSaidBeforeItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := newDaemonLog(nil)
	log.printf("early %d", 1)
	require.NoError(t, log.open(path))
	log.printf("late\nin two lines")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `^\S+Z early 1\n\S+Z late; in two lines\n$`, string(text))
}
