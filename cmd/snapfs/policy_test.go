package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestChangePolicy(t *testing.T) {
	const document = `{"quiesce": {"mode": "none", "pre": [], "guest_hooks": false}, "limit": {"snapshots": 0, "age": "0"}, "schedule": ""}`
	for _, test := range []struct {
		change, want string
	}{
		{"schedule=0 3 * * *", `"schedule": "0 3 * * *"`},
		{"schedule=", `"schedule": ""`},
		{`schedule="@daily"`, `"schedule": "@daily"`},
		{"limit.age=0", `"age": "0"`},
		{"limit.snapshots=7", `"snapshots": 7`},
		{"quiesce.guest_hooks=true", `"guest_hooks": true`},
		{"quiesce.pre=/a,/b c", `"pre": ["/a", "/b c"]`},
		{`quiesce.pre=["/a,b"]`, `"pre": ["/a,b"]`},
		{"quiesce.pre=", `"pre": []`},
		{`limit={"snapshots": 1}`, `"limit": {"snapshots": 1}`},
	} {
		changed, err := changePolicy([]byte(document), []string{test.change})
		require.NoError(t, err, test.change)
		require.Contains(t, spaced(t, changed), test.want, test.change)
	}
	for _, change := range []string{
		"schedule", "colour=red", "quiesce.colour=red", "schedule.mode=x", "limit.snapshots=many", "quiesce.guest_hooks=", `quiesce.pre=["/a"`,
	} {
		_, err := changePolicy([]byte(document), []string{change})
		require.ErrorAs(t, err, new(usageError), change)
	}
}

// spaced writes JSON with a blank after each : and , outside of strings.
func spaced(t *testing.T, text []byte) string {
	t.Helper()
	var b []byte
	quoted := false
	for _, c := range text {
		if b = append(b, c); c == '"' {
			quoted = !quoted
		}
		if !quoted && (c == ':' || c == ',') {
			b = append(b, ' ')
		}
	}
	return string(b)
}

func TestPolicyCommand(t *testing.T) {
	store, point := newMount(t)
	vm := newVM(t, point, "web", "x")
	require.Contains(t, done(t, "policy", vm), "quiesce.mode         none\n")
	require.Empty(t, done(t, "policy", vm, "set", "limit.snapshots=1", "exclude=swap.img,tmp.img"))
	require.Contains(t, done(t, "policy", vm), "exclude              swap.img, tmp.img\n")
	require.Contains(t, done(t, "policy", "--json", vm), `"limit":{"snapshots":1,`)
	require.Contains(t, done(t, "policy", vm, "set", "limit.age=72h", "--json"), `{"policy":{"quiesce":`)
	require.Contains(t, refused(t, "policy", vm, "set", "limit.age=old"), "limit.age")
	require.Contains(t, refused(t, "policy", vm, "set", "quiesce.mode=agent"), "needs quiesce.agent")

	done(t, "create", vm, "one")
	require.Contains(t, refused(t, "create", vm, "two"), "allows 1")
	done(t, "umount", point)
	mount(t, store, point)
	require.Contains(t, done(t, "policy", vm), "limit.age            72h\n", "it survives")
}

// The whole way: the policy by command, the agent, the snapshot, status, and the check, at a real mount.
func TestQuiesceAtTheMount(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "x")
	require.Contains(t, refused(t, "quiesce", vm, "--check"), "names no agent")
	agent := newAgent(t)
	done(t, "policy", vm, "set", "quiesce.mode=agent", "quiesce.agent="+agent.path)
	out := done(t, "quiesce", vm, "--check")
	require.Contains(t, out, "guest agent 7.2.22: freeze yes, freeze of chosen mountpoints no\n")
	require.Contains(t, out, "/           vda1    ext4  1.0MiB")
	require.Contains(t, done(t, "quiesce", "--json", "--check", vm), `"version":"7.2.22"`)
	require.Empty(t, agent.asked(), "checking freezes nothing")

	disk := openToWrite(t, filepath.Join(vm, "root.img"))
	defer disk.Close()
	require.Contains(t, done(t, "create", vm, "one", "--json"), `"consistency":"filesystem"`)
	require.Equal(t, []string{"freeze", "thaw"}, agent.asked())

	done(t, "policy", vm, "set", "quiesce.agent=/nonexistent")
	require.Contains(t, refused(t, "create", vm, "two"), "/nonexistent")
	require.Contains(t, refused(t, "quiesce", vm, "--check"), "/nonexistent")
	require.Contains(t, done(t, "status", vm), "the last snapshot failed: guest agent /nonexistent")
	list, err := (place{vm}).snapshots()
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, layer.ConsistencyFilesystem, list[0].Consistency)
	done(t, "policy", vm, "set", "quiesce.mode=agent-or-crash")
	code, _, stderr := snapfs("create", vm, "three")
	require.Equal(t, exitDone, code)
	require.Contains(t, stderr, "warning: not quiesced: guest agent /nonexistent")
	require.Contains(t, done(t, "log", vm), "create vm=web snapshot=three consistency=crash warning=")
}

func openToWrite(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	return f
}
