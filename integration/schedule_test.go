package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMissedSchedule: what was due while no daemon was there is made once, by
// the next one; and a snapshot that a person renamed is his.
func TestMissedSchedule(t *testing.T) {
	m := newMount(t)
	vm := m.vm("web")
	m.disk("web", "disk.img", 1<<20)
	mustSnapfs(t, "policy", vm, "set", "schedule=0 0 1 * *", "keep.monthly=1")
	path := filepath.Join(m.store, "schedule")
	plans := func() (p map[string]map[string]string) {
		require.NoError(t, json.Unmarshal(readFile(t, path), &p))
		delete(p, "0") // the checksum
		return p
	}
	require.Eventually(t, func() bool { _, err := os.Stat(path); return err == nil && len(plans()) == 1 }, patience, 10*time.Millisecond,
		"a policy takes effect without a new mount")
	missed := func() {
		m.stop()
		late := plans()
		for _, p := range late {
			p["since"] = time.Now().AddDate(-1, 0, 0).Format(time.RFC3339)
		}
		text, err := json.Marshal(late)
		require.NoError(t, err)
		writeFile(t, path, append(text, '\n')) // as a version without a checksum wrote it
		m.start()
	}
	missed()
	requireLog(t, vm, "scheduled vm=web snapshot=auto-")
	first := snapshotNames(t, vm)
	require.Len(t, first, 1)
	mustSnapfs(t, "rename", vm, first[0], "mine")
	m.remount()
	require.Equal(t, []string{"mine"}, snapshotNames(t, vm))

	for range 2 {
		missed()
		requireLog(t, vm, "scheduled vm=web snapshot=auto-")
	}
	requireLog(t, vm, "thinned vm=web snapshots=auto-")
	all := snapshotNames(t, vm)
	require.Len(t, all, 2)
	require.Equal(t, "mine", all[0])
	require.True(t, strings.HasPrefix(all[1], "auto-"))
	mustSnapfs(t, "policy", vm, "set", "schedule=")
	require.Eventually(t, func() bool { return len(plans()) == 0 }, patience, 10*time.Millisecond)
}
