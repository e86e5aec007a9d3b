package fs

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestExpandRanges(t *testing.T) {
	// a ─ b ─ c ─ d, and e from b
	list := []layer.SnapshotInfo{
		grown("a", "", 9, false), grown("b", "a", 8, false), grown("c", "b", 7, false),
		grown("d", "c", 6, false), grown("e", "b", 5, true),
	}
	for _, test := range []struct{ names, want []string }{
		{[]string{"x", "d"}, []string{"x", "d"}},
		{[]string{"a..d"}, []string{"a", "b", "c", "d"}},
		{[]string{"b..e"}, []string{"b", "e"}},
		{[]string{"c..c"}, []string{"c"}},
		{[]string{"e", "c..d", "b..e"}, []string{"e", "c", "d", "b"}},
	} {
		got, err := ExpandRanges(list, test.names)
		require.NoError(t, err, test.names)
		require.Equal(t, test.want, got)
	}
	for name, errno := range map[string]syscall.Errno{
		"d..a": syscall.EINVAL, "c..e": syscall.EINVAL, "a..": syscall.EINVAL, "..a": syscall.EINVAL, "..": syscall.EINVAL,
		"a..b..c": syscall.ENOENT, "x..d": syscall.ENOENT, "a..x": syscall.ENOENT,
	} {
		_, err := ExpandRanges(list, []string{"a", name})
		require.Equal(t, errno, layer.Errno(err), name)
	}
}

// A list that makes no sense, with a snapshot that grew from itself, is not followed for ever.
func TestExpandRangesOfACircle(t *testing.T) {
	list := []layer.SnapshotInfo{grown("a", "", 9, false), grown("b", "c", 8, false), grown("c", "b", 7, false)}
	_, err := ExpandRanges(list, []string{"a..b"})
	require.Equal(t, syscall.EINVAL, layer.Errno(err))
}
