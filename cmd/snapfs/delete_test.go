package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestDeleteSelections(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		done(t, "create", vm, name)
	}
	left := func() string { return strings.Join(strings.Fields(done(t, "list", vm, "-H", "-o", "name")), " ") }
	would := func(args ...string) (names string) {
		for line := range strings.Lines(done(t, append([]string{"delete", vm, "--dry-run"}, args...)...)) {
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "would delete "), " (")
			names += " " + name
		}
		return strings.TrimSpace(names)
	}
	require.Equal(t, "b c d", would("b..d"))
	require.Equal(t, "e a b", would("e", "a..b"))
	require.Equal(t, "a b c d e", would("--older-than=1ns"))
	require.Empty(t, would("a..e", "--older-than=1h"))
	require.Contains(t, done(t, "delete", vm, "a..b", "--dry-run", "--json"), `{"snapshots":[{"name":"a",`)
	require.Equal(t, "{\"snapshots\":[]}\n", done(t, "delete", vm, "--older-than=1h", "--json"))
	require.Contains(t, refused(t, "delete", vm, "a", "x", "--dry-run"), `no snapshot "x"`)
	require.Contains(t, refused(t, "delete", vm, "d..b", "--dry-run"), "did not grow from")
	require.Contains(t, refused(t, "delete", vm, "d..b"), "did not grow from")
	require.Equal(t, "a b c d e", left())

	require.Empty(t, done(t, "delete", vm, "b..c"))
	require.Equal(t, "a d e", left())
	done(t, "delete", vm, "a..d", "--older-than=1ns")
	require.Equal(t, "e", left())
	done(t, "delete", vm, "--older-than=1ns")
	require.Empty(t, left())
}

func TestPickByAge(t *testing.T) {
	now := time.Now()
	aged := func(name string, age time.Duration) listed {
		return listed{SnapshotInfo: layer.SnapshotInfo{Name: name, Created: now.Add(-age)}}
	}
	list := []listed{aged("old", 73*time.Hour), aged("just", 72*time.Hour), aged("new", time.Hour)}
	for _, test := range []struct {
		names []string
		age   time.Duration
		want  []string
	}{
		{nil, 72 * time.Hour, []string{"old"}},
		{nil, time.Minute, []string{"old", "just", "new"}},
		{[]string{"new", "old"}, 72 * time.Hour, []string{"old"}},
		{[]string{"new"}, 0, []string{"new"}},
		{nil, 100 * time.Hour, nil},
	} {
		picked, err := pick(list, test.names, test.age, now)
		require.NoError(t, err)
		require.Equal(t, test.want, snapshotNames(picked))
	}
}
