package fs

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

var treeTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// grown is a snapshot that grew from another, some hours before treeTime.
func grown(name, parent string, hours int, head bool) layer.SnapshotInfo {
	info := layer.SnapshotInfo{
		Name: name, Created: treeTime.Add(-time.Duration(hours) * time.Hour), Consistency: layer.ConsistencyCrash, Head: head,
	}
	if parent != "" {
		info.Parent = &parent
	}
	return info
}

func TestTree(t *testing.T) {
	described := grown("before-upgrade", "installed", 50, false)
	described.Description = "kernel\n6.18"
	described.Held = 310 << 20
	off := grown("installed", "", 24*9, false)
	off.Consistency = layer.ConsistencyOff
	off.Held = 5 << 30

	for _, test := range []struct {
		name    string
		preview *string
		infos   []layer.SnapshotInfo
		want    string
	}{
		{"no snapshots", nil, nil, `
web
○ you are here
`},
		{"a line", nil, []layer.SnapshotInfo{off, described, grown("drivers", "before-upgrade", 1, true)}, `
web
● installed       1 week ago  off    5.0 GiB
● before-upgrade  2 days ago  crash  310 MiB  kernel·6.18
● drivers         1 hour ago  crash      0 B
○ you are here
`},
		{"reverted to the middle", nil, []layer.SnapshotInfo{
			grown("a", "", 9, false), grown("b", "a", 8, true), grown("c", "b", 7, false), grown("d", "c", 6, false),
			grown("before-revert", "d", 5, false),
		}, `
web
● a                9 hours ago  crash  0 B
● b                8 hours ago  crash  0 B
├─● c              7 hours ago  crash  0 B
│ ● d              6 hours ago  crash  0 B
│ ● before-revert  5 hours ago  crash  0 B
○ you are here
`},
		{"preview", &described.Name, []layer.SnapshotInfo{
			grown("installed", "", 9, false), grown(described.Name, "installed", 8, true), grown("drivers", described.Name, 7, false),
		}, `
web
● installed       9 hours ago  crash  0 B
● before-upgrade  8 hours ago  crash  0 B
├─● drivers       7 hours ago  crash  0 B
○ you are here (preview of before-upgrade)
`},
		{"branches of branches, and no way here from any", nil, []layer.SnapshotInfo{
			grown("a", "", 9, false), grown("b", "a", 8, false), grown("c", "a", 7, false), grown("d", "b", 6, false),
			grown("e", "b", 5, false), grown("f", "gone", 4, false),
		}, `
web
├─● a      9 hours ago  crash  0 B
│ ├─● b    8 hours ago  crash  0 B
│ │ ├─● d  6 hours ago  crash  0 B
│ │ ● e    5 hours ago  crash  0 B
│ ● c      7 hours ago  crash  0 B
├─● f      4 hours ago  crash  0 B
○ you are here
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, strings.TrimPrefix(test.want, "\n"), drawTree(layer.VMStatus{VM: "web", Preview: test.preview}, test.infos, treeTime))
		})
	}
}

// A thousand snapshots in a row make a column, not a staircase.
func TestTreeStaysNarrow(t *testing.T) {
	var infos []layer.SnapshotInfo
	parent := ""
	for i := range 1000 {
		name := "s" + strings.Repeat("x", i%3)
		infos = append(infos, grown(name+time.Duration(i).String(), parent, 1000-i, i == 999))
		parent = infos[i].Name
	}
	for line := range strings.Lines(drawTree(layer.VMStatus{VM: "web"}, infos, treeTime)) {
		require.Less(t, len(line), 80)
	}
}
