package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two builds whose sources no version names are told apart, by what `--version` says and by what a mount does.
func TestVersionTellsBuildsApart(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	id := contentID()
	require.Len(t, id, 12)
	other := filepath.Join(t.TempDir(), "snapfs")
	require.NoError(t, os.WriteFile(other, bytes.ReplaceAll(self, []byte(id), []byte("of-others-12")), 0o755))
	said, err := exec.Command(other, "--version").Output()
	require.NoError(t, err)
	require.Equal(t, "snapfs version devel+of-others-12\n", string(said))
	require.Equal(t, "snapfs version devel+"+id+"\n", done(t, "--version"))
	store, _ := newMount(t)
	require.Contains(t, readLog(t, store), ", version devel+"+id+", ")
}
