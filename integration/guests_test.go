package integration

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/snapfs/snapfs/integration/guest"
	"github.com/stretchr/testify/require"
)

// startGuest boots a guest that is killed when the test ends.
func startGuest(t testing.TB, dir, name string, disks ...string) *guest.Guest {
	t.Helper()
	g, err := guest.Start(t.Context(), guest.Config{Name: name, Dir: dir, Disks: disks})
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	return g
}

// inGuest runs a script that must succeed and returns its output.
func inGuest(t testing.TB, g *guest.Guest, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := g.Run(ctx, script)
	require.NoError(t, err)
	return out
}

// switchOff unmounts in the guest and ends it.
func switchOff(t testing.TB, g *guest.Guest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(t, g.Stop(ctx))
}

// together runs f for each index at the same time and waits for all of them.
// f must not end the test: it returns its error.
func together(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
