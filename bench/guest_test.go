package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGuestWatches has a request that is longer than a watch, one that ends in the next one, and one that begins there.
func TestGuestWatches(t *testing.T) {
	s := newScope(t.TempDir())
	defer s.end()
	began, end := make(chan struct{}, 1), make(chan struct{})
	g := &guest{request: func(*disk) {
		select {
		case began <- struct{}{}:
		default:
		}
		<-end
	}}
	g.start(s, filepath.Join(s.temp(), "disk"), 0, 1)
	<-began
	g.watch(func() {})
	end <- struct{}{}
	<-began
	g.watch(func() {
		end <- struct{}{}
		<-began
	})
	close(end)
	watches := g.stop()
	require.NoError(t, s.err())
	require.Len(t, watches, 2)
	require.Len(t, watches[0], 1)
	require.Len(t, watches[1], 2)
	require.Len(t, every(2, 1, watches), 2)
}
