package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestConfirm(t *testing.T) {
	for text, want := range map[string]bool{"y\n": true, "YES\n": true, "yes": true, "n\n": false, "\n": false, "": false, "yep\n": false} {
		a := &app{stdin: strings.NewReader(text), stdout: io.Discard}
		require.Equal(t, want, a.confirm("Sure?"), "%q", text)
	}
}

// Every command must fit into one write of 64 KiB, and no snapshot may be left out.
func TestBatches(t *testing.T) {
	var snapshots []listed
	for range 1000 {
		snapshots = append(snapshots, listed{SnapshotInfo: layer.SnapshotInfo{Name: strings.Repeat("&", 255)}})
	}
	n := 0
	for _, names := range batches(snapshots) {
		text, err := json.Marshal(command{Names: names})
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), 64<<10)
		n += len(names)
	}
	require.Equal(t, len(snapshots), n)
	require.Empty(t, batches(nil))
}
