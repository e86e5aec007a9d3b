package layer

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckName(t *testing.T) {
	const all = "VM file snapshot"
	for _, test := range []struct {
		name string
		good string // kinds of things that can have it
	}{
		{"root.img", all},
		{"a", all},
		{"ünïcode 名前", all},
		{"with space", all},
		{"Δ", all},
		{"x=1", all},
		{"a.b.c", all},
		{"~", all},
		{"ends-", all},
		{`mid"quote{`, all},
		{strings.Repeat("a", 255), all},
		{strings.Repeat("a", 256), ""},
		{strings.Repeat("é", 127) + "a", all},
		{strings.Repeat("é", 128), ""},
		{"", ""},
		{".", ""},
		{"..", ""},
		{"a..b", ""},
		{"a..", ""},
		{"a/b", ""},
		{"/", ""},
		{"web@now", ""},
		{"-rf", ""},
		{`{"name"`, ""},
		{`"quoted"`, ""},
		{"new\nline", ""},
		{"tab\t", ""},
		{"nul\x00", ""},
		{"del\x7f", ""},
		{"c1\u0085", ""},
		{"not\xffutf8", ""},
		{".lock", "file"},
		{"...", ""},
		{".snapshots", ""},
		{"memory", "VM snapshot"},
		{"snapshot.json", "VM snapshot"},
		{"create", "VM file"},
		{"delete", "VM file"},
		{"rename", "VM file"},
		{"revert", "VM file"},
		{"preview", "VM file"},
		{"commit", "VM file"},
		{"undo", "VM file"},
		{"clone", "VM file"},
		{"tree", "VM file"},
		{"list", "VM file"},
		{"status", "VM file"},
		{"log", "VM file"},
		{"policy", "VM file"},
		{"creates", all},
	} {
		for _, kind := range []NameKind{NameVM, NameFile, NameSnapshot} {
			err := CheckName(kind, test.name)
			if strings.Contains(test.good, string(kind)) {
				require.NoError(t, err, "%s %q", kind, test.name)
				continue
			}
			require.Error(t, err, "%s %q", kind, test.name)
			require.Equal(t, syscall.EINVAL, Errno(err), "%s %q", kind, test.name)
			require.NotContains(t, err.Error(), "\n", "an error is one line")
		}
	}
}

// The rules hold wherever a name comes in.
func TestNamesAreChecked(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	makeFile(t, v, "root", 0)
	snapshot(t, v, "now")
	_, err := s.CreateVM("a@b", 0o755, 0, 0)
	require.ErrorIs(t, err, syscall.EINVAL)
	require.ErrorIs(t, s.RenameVM("web", ".web", false), syscall.EINVAL)
	_, _, err = v.Create("memory", 0o644, 0, 0, false)
	require.ErrorIs(t, err, syscall.EINVAL)
	require.ErrorIs(t, v.Rename("root", ".snapshots", 0), syscall.EINVAL)
	_, err = v.CreateSnapshot(CreateOptions{Name: "list"})
	require.ErrorIs(t, err, syscall.EINVAL)
	_, err = v.RenameSnapshot("now", "undo")
	require.ErrorIs(t, err, syscall.EINVAL)
}
