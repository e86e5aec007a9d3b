package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPreviewCommands(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	disk := filepath.Join(vm, "root.img")
	done(t, "create", vm, "base")
	write(t, disk, "later")
	require.Contains(t, refused(t, "commit", vm), "no preview")
	require.Contains(t, refused(t, "undo", vm), "no preview")

	require.Empty(t, done(t, "preview", vm, "base"))
	require.Equal(t, "first", start(t, disk, 5))
	require.Contains(t, done(t, "tree", vm), "you are here (preview of base)")
	require.Regexp(t, `preview +base\n`, done(t, "status", vm))
	write(t, disk, "tried")
	for _, args := range [][]string{{"create", vm, "x"}, {"revert", vm, "base"}, {"preview", vm, "base"}, {"delete", vm, "base"}} {
		require.Contains(t, refused(t, args...), "commit or undo", args)
	}
	require.Empty(t, done(t, "undo", vm))
	require.Equal(t, "later", start(t, disk, 5))

	done(t, "preview", vm, "base")
	write(t, disk, "tried")
	out := done(t, "commit", vm)
	require.Regexp(t, `^kept as before-commit-\S+\n$`, out)
	require.Equal(t, "tried", start(t, disk, 5))
	kept := strings.TrimSpace(strings.TrimPrefix(out, "kept as "))
	require.Equal(t, "later", start(t, filepath.Join(vm, ".snapshots", kept, "root.img"), 5))
}

func TestPreviewOfSomeFiles(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	settings := filepath.Join(vm, "domain.xml")
	require.NoError(t, os.WriteFile(settings, []byte("<domain/>"), 0o600))
	done(t, "create", vm, "base")
	write(t, filepath.Join(vm, "root.img"), "later")
	write(t, settings, "<DOMAIN")
	var answer struct {
		Snapshot struct{ Name string }
		Message  string
	}
	require.NoError(t, json.Unmarshal([]byte(done(t, "preview", vm, "base", "--files=domain.xml", "--json")), &answer))
	require.Equal(t, "base", answer.Snapshot.Name)
	require.Contains(t, answer.Message, "domain.xml")
	require.Equal(t, "later", start(t, filepath.Join(vm, "root.img"), 5))
	require.Equal(t, "<domain", start(t, settings, 7))
	require.Contains(t, done(t, "undo", vm, "--json"), `"kept":null`)
	require.Equal(t, "<DOMAIN", start(t, settings, 7))
}

func TestForcedPreview(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	done(t, "create", vm, "base")
	f, err := os.OpenFile(filepath.Join(vm, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	for _, args := range [][]string{{"preview", vm, "base"}, {"undo", vm}} {
		refused(t, args...)
		require.Contains(t, done(t, append(args, "--force")...), "reset the guest now")
	}
}

func TestClone(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	done(t, "create", vm, "golden")
	t.Chdir(point)
	require.Empty(t, done(t, "clone", vm+"@golden", "by-name"))
	done(t, "clone", "web@golden", "./by-path")
	done(t, "clone", "web@golden", filepath.Join(point, "by-full-path/"))
	t.Chdir(vm)
	done(t, "clone", ".@golden", "../from-inside")
	require.Contains(t, done(t, "clone", vm+"/@golden", "json", "--json"), `"vm":"json"`)
	for _, name := range []string{"by-name", "by-path", "by-full-path", "from-inside", "json"} {
		require.Equal(t, "first", start(t, filepath.Join(point, name, "root.img"), 5), name)
	}
	require.Contains(t, refused(t, "clone", vm+"@golden", filepath.Join(t.TempDir(), "x")), "is not in the mount of")
	require.Contains(t, refused(t, "clone", vm+"@golden", "./x"), "is not in the mount of")
	require.Contains(t, refused(t, "clone", vm+"@golden", "by-name"), "by-name")
	require.Contains(t, refused(t, "clone", vm+"@none", "x"), "none")
	require.Contains(t, refused(t, "clone", vm+"@golden", "missing/x"), "no such file")
}
