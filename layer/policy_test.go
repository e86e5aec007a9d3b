package layer

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePolicy(t *testing.T) {
	p, err := ParsePolicy([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, DefaultPolicy(), p)
	p, err = ParsePolicy([]byte(`{"limit": {"bytes": "20GiB"}, "keep": {"daily": 7}, "schedule": "0 * * * *"}`))
	require.NoError(t, err)
	require.Equal(t, 3, p.Keep.Undo, "what is left out is as by default")
	for document, says := range map[string]string{
		``:                                      "JSON",
		`{"keep": {"undo": 3}`:                  "JSON",
		`{"schedule": 'x'}`:                     "byte 14",
		`[]`:                                    "an object",
		`null`:                                  "an object",
		`{} {}`:                                 "something follows",
		"{\"schedule\": \"\xff\"}":              "UTF-8",
		`{"limits": {}}`:                        "limits: no such key; there are quiesce, ",
		`{"Schedule": ""}`:                      "Schedule: no such key",
		`{"quiesce": {"Mode": "none"}}`:         "quiesce.Mode: no such key; there are mode, ",
		`{"schedule": "", "schedule": ""}`:      "schedule: given twice",
		`{"keep": {"undo": 1, "undo": 1}}`:      "keep.undo: given twice",
		`{"exclude": null}`:                     "exclude: it is a list",
		`{"exclude": "swap.img"}`:               "exclude: it is a list",
		`{"exclude": ["a", null]}`:              "exclude[1]: it is a text",
		`{"exclude": ["a/b"]}`:                  "exclude[0]: ",
		`{"quiesce": null}`:                     "quiesce: it is an object",
		`{"quiesce": {"timeout": 10}}`:          "quiesce.timeout: it is a text",
		`{"quiesce": {"timeout": "10"}}`:        "quiesce.timeout: ",
		`{"quiesce": {"timeout": "11s"}}`:       "quiesce.timeout: ",
		`{"quiesce": {"timeout": "0s"}}`:        "quiesce.timeout: ",
		`{"quiesce": {"guest_hooks": 1}}`:       "quiesce.guest_hooks: it is true or false",
		`{"quiesce": {"mode": "hard"}}`:         "quiesce.mode: ",
		`{"quiesce": {"mode": "agent"}}`:        "quiesce.mode: ",
		`{"quiesce": {"mode": "pause"}}`:        "quiesce.mode: ",
		`{"quiesce": {"agent": "agent.sock"}}`:  "quiesce.agent: ",
		`{"quiesce": {"agent": "libvirt:"}}`:    "quiesce.agent: ",
		`{"quiesce": {"qmp": "libvirt:-c"}}`:    "quiesce.qmp: ",
		`{"quiesce": {"pre": ["stop-db"]}}`:     "quiesce.pre[0]: ",
		`{"limit": {"bytes": "lots"}}`:          "limit.bytes: ",
		`{"limit": {"bytes": 5}}`:               "limit.bytes: it is a text",
		`{"limit": {"age": "3 days"}}`:          "limit.age: ",
		`{"limit": {"snapshots": -1}}`:          "limit.snapshots: ",
		`{"limit": {"snapshots": 1.5}}`:         "limit.snapshots: it is a whole number",
		`{"limit": {"snapshots": 1e99}}`:        "limit.snapshots: it is a whole number",
		`{"keep": {"daily": -1}}`:               "keep.daily: ",
		`{"schedule": "hourly"}`:                "schedule: ",
		`{"schedule": "TZ=UTC"}`:                "schedule: \"TZ=UTC\": a schedule is in local time",
		`{"schedule": "CRON_TZ=UTC 0 0 * * *"}`: "schedule: ",
		`{"schedule": "@every 1s"}`:             "schedule: \"@every 1s\" is more often",
		`{"schedule": "0 0 31 2 *"}`:            "schedule: \"0 0 31 2 *\" never comes",
	} {
		_, err := ParsePolicy([]byte(document))
		require.Equal(t, syscall.EINVAL, Errno(err), document)
		require.ErrorContains(t, err, says, document)
		require.NotContains(t, err.Error(), "Go ", document)
	}
}

// What is taken for a policy means what encoding/json takes it for, and reads back the same.
func FuzzParsePolicy(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"quiesce": {"mode": "agent", "agent": "/a", "pre": ["/b"], "guest_hooks": true}, "keep": {"undo": 1}}`,
		`{"exclude": ["a", "\u00e4"], "limit": {"snapshots": -0, "bytes": "1e3"}, "schedule": "@daily"}`, `{"keep": {"undo": 1e2}}`,
		`{"schedule": "TZ=UTC"}`, `[1]`, `{"a": {"b": [null]}}`, "{\"schedule\": \"\\ud800\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		p, err := ParsePolicy(document)
		if err != nil {
			require.Equal(t, syscall.EINVAL, Errno(err))
			require.NotContains(t, err.Error(), "\n")
			return
		}
		same := DefaultPolicy()
		require.NoError(t, json.Unmarshal(document, &same))
		require.Equal(t, same, p)
		text, err := json.Marshal(p)
		require.NoError(t, err)
		again, err := ParsePolicy(text)
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "4k": 4096, "16M": 16 << 20, "16MiB": 16 << 20, "1.5G": 3 << 29} {
		n, err := ParseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, n, text)
	}
	for _, text := range []string{"", "-1", "lots", "16Mi B", "9E9"} {
		_, err := ParseSize(text)
		require.Error(t, err, text)
	}
}

func TestPolicyLimitsAndExcludes(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	v, set, get := previewDisk(t, s)
	_, _, err := v.Create("swap.img", 0o600, 0, 0, true)
	require.NoError(t, err)
	p := DefaultPolicy()
	p.Exclude = []string{"swap.img"}
	p.Limit.Snapshots = 1
	require.NoError(t, v.SetPolicy(p))
	require.NoError(t, s.Close())
	s = openStore(t, dir, Options{})
	v, err = s.VM("web")
	require.NoError(t, err)
	require.Equal(t, p, v.Policy(), "over a restart")

	set(v, 1)
	info, err := v.CreateSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	require.Equal(t, []string{"swap.img"}, info.Excluded)
	_, err = v.CreateSnapshot(CreateOptions{Name: "two"})
	require.Equal(t, syscall.EDQUOT, Errno(err))

	swap, err := v.Lookup("swap.img")
	require.NoError(t, err)
	_, err = swap.Write([]byte{42}, 0, true)
	require.NoError(t, err)
	set(v, 2)
	for range 5 { // no limit counts what reverts keep
		_, err = v.Revert(RevertOptions{Name: "one"})
		require.NoError(t, err)
		require.EqualValues(t, 1, get(v))
	}
	require.Len(t, v.Snapshots(), 1+p.Keep.Undo)
	same, err := v.Lookup("swap.img")
	require.NoError(t, err)
	require.Same(t, swap, same)
	_, err = v.Revert(RevertOptions{Name: "one", Files: []string{"swap.img"}})
	require.Equal(t, syscall.ENOENT, Errno(err))

	p.Exclude, p.Shareable = nil, []string{"swap.img"}
	p.Limit.Snapshots = 0
	require.NoError(t, v.SetPolicy(p))
	_, err = v.CreateSnapshot(CreateOptions{Name: "two"})
	require.ErrorContains(t, err, "swap.img")
	_, err = v.CreateSnapshot(CreateOptions{Name: "two", Files: []string{"root.img"}})
	require.NoError(t, err)
}

// A pending snapshot can be given up before the swap, and judged worthless after it; neither leaves anything.
func TestPendingSnapshot(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	v, set, get := previewDisk(t, s)
	set(v, 1)
	p, err := v.PrepareSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	p.Abort()
	set(v, 2)
	p, err = v.PrepareSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	p.Swap()
	set(v, 3)
	_, err = p.Seal(func() Verdict { return Verdict{Err: Errorf(syscall.ETIMEDOUT, "the guest did not thaw in time")} })
	require.Equal(t, syscall.ETIMEDOUT, Errno(err))
	p.Abort() // does nothing
	require.Empty(t, v.Snapshots())
	require.EqualValues(t, 3, get(v))

	f, err := v.Lookup("root.img")
	require.NoError(t, err)
	require.NoError(t, f.Open(1, true))
	p, err = v.PrepareSnapshot(CreateOptions{Name: "one"})
	require.NoError(t, err)
	require.True(t, p.Running())
	p.Swap()
	info, err := p.Seal(func() Verdict { return Verdict{Consistency: ConsistencyFilesystem, Warning: "slow"} })
	require.NoError(t, err)
	require.Equal(t, ConsistencyFilesystem, info.Consistency)
	require.Equal(t, "slow", *info.Warning)
	f.Close(1)
	require.NoError(t, s.Close())
	report, err := Check(dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
}

// What can't be recorded is refused before the swap, and leaves the VM as it was.
func TestSnapshotTooLargeToRecord(t *testing.T) {
	s := newStore(t, Options{})
	v, set, get := previewDisk(t, s)
	for i := range 1900 {
		_, _, err := v.Create(fmt.Sprintf("%04d", i)+strings.Repeat("\\", 251), 0o600, 0, 0, true)
		require.NoError(t, err)
	}
	_, err := v.CreateSnapshot(CreateOptions{Name: "one"})
	require.Equal(t, syscall.ENOSPC, Errno(err))
	set(v, 5)
	f, err := v.Lookup("root.img")
	require.NoError(t, err)
	require.NoError(t, f.Flush(false))
	_, err = v.CreateSnapshot(CreateOptions{Name: "one", Files: []string{"root.img"}})
	require.NoError(t, err, "names alone fit")
	require.EqualValues(t, 5, get(v))
}
