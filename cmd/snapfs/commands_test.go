package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestSnapshotCommands(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	disk := filepath.Join(vm, "root.img")
	require.Empty(t, done(t, "create", vm, "base", "-m", "as it came"), "quiet when all is well")
	write(t, disk, "later")
	done(t, "create", vm, "a name, and blanks")
	require.Contains(t, refused(t, "create", vm, "base"), "base")
	require.Equal(t, "first", start(t, filepath.Join(vm, ".snapshots", "base", "root.img"), 5))

	require.Equal(t, "base\tas it came\na name, and blanks\t-\n", done(t, "list", vm, "-H", "-o", "name,description"))
	require.Equal(t, "web\tbase\nweb\ta name, and blanks\n", done(t, "list", point, "-H", "-o", "vm,name"))
	require.Equal(t, "web\nweb\n", done(t, "list", vm, "-H", "-o", "vm"))
	require.Contains(t, done(t, "list", vm), "NAME")
	require.Contains(t, done(t, "list", point), "VM")
	tree := done(t, "tree", vm)
	require.Contains(t, tree, "base")
	require.Contains(t, tree, "you are here")
	require.Contains(t, done(t, "log", vm), "create")
	require.Contains(t, done(t, "status", vm), "web")
	require.Contains(t, done(t, "status", point), point)
	require.Contains(t, done(t, "status", vm, "-H"), "vm\tweb\n")
	require.Contains(t, done(t, "policy", vm, "-o", "value,key"), "none   quiesce.mode")
	require.Contains(t, refused(t, "check", point), "snapfs umount "+point)

	out := done(t, "revert", vm, "base")
	require.Regexp(t, `^kept as before-revert-\S+\n$`, out)
	require.Equal(t, "first", start(t, disk, 5))
	kept := strings.TrimSpace(strings.TrimPrefix(out, "kept as "))
	require.Equal(t, "later", start(t, filepath.Join(vm, ".snapshots", kept, "root.img"), 5))
	done(t, "rename", vm, kept, "mine")
	require.Empty(t, done(t, "revert", vm, "mine", "--discard"))
	require.Equal(t, "later", start(t, disk, 5))

	require.Contains(t, refused(t, "delete", vm, "base", "missing"), "missing")
	require.Contains(t, done(t, "list", vm), "base", "all or none")
	done(t, "delete", vm, "base", "mine")
	require.Equal(t, "a name, and blanks\n", done(t, "list", vm, "-H", "-o", "name"))
	require.Contains(t, refused(t, "create", point, "x"), "name the directory of a VM")
}

func TestRevertUnderAnOpenFile(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	done(t, "create", vm, "base")
	f, err := os.OpenFile(filepath.Join(vm, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	refused(t, "revert", vm, "base")
	require.Contains(t, done(t, "revert", vm, "base", "--force"), "reset the guest now")
}

func TestOnlySomeFiles(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	require.NoError(t, os.WriteFile(filepath.Join(vm, "domain.xml"), []byte("<domain/>"), 0o600))
	done(t, "create", vm, "disk-only", "--files", "root.img")
	require.Equal(t, "disk-only\troot.img\n", done(t, "list", vm, "-H", "-o", "name,files"))
	done(t, "create", vm, "all")
	write(t, filepath.Join(vm, "root.img"), "later")
	write(t, filepath.Join(vm, "domain.xml"), "<DOMAIN")
	done(t, "revert", vm, "all", "--files=domain.xml", "--discard")
	require.Equal(t, "later", start(t, filepath.Join(vm, "root.img"), 5))
	require.Equal(t, "<domain", start(t, filepath.Join(vm, "domain.xml"), 7))
}

func TestJSON(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	decode := func(args ...string) any {
		t.Helper()
		var v any
		require.NoError(t, json.Unmarshal([]byte(done(t, append(args, "--json")...)), &v))
		return v
	}
	created := decode("create", vm, "base").(map[string]any)
	require.Equal(t, "base", created["snapshot"].(map[string]any)["name"])
	require.Len(t, decode("list", vm), 1)
	require.Equal(t, "web", decode("list", point).([]any)[0].(map[string]any)["vm"])
	require.Len(t, decode("tree", vm), 1)
	require.Equal(t, "web", decode("status", vm).(map[string]any)["vm"])
	require.Equal(t, point, decode("status", point).(map[string]any)["mountpoint"])
	events := decode("log", vm).([]any)
	require.NotEmpty(t, events)
	require.NotEmpty(t, events[0].(map[string]any)["event"])
	require.NotNil(t, decode("revert", vm, "base").(map[string]any)["kept"])
	require.Contains(t, decode("rename", vm, "base", "new"), "snapshot")
	require.Contains(t, decode("delete", vm, "new"), "snapshot")
}

func TestDestroy(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	for _, name := range []string{"a", "b", "c"} {
		done(t, "create", vm, name)
	}
	require.Contains(t, refused(t, "destroy", vm), "--yes", "nobody to ask")
	f, err := os.OpenFile(filepath.Join(vm, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	require.Contains(t, refused(t, "destroy", vm, "--yes"), "stop the guest first")
	require.NoError(t, f.Close())
	require.Len(t, strings.Split(done(t, "list", vm, "-H"), "\n"), 4, "nothing is gone yet")
	require.Empty(t, done(t, "destroy", vm, "--yes"))
	require.NoDirExists(t, vm)
}

// A preview does not stand in the way, and what it hides goes too. Clones stay.
func TestDestroyDuringPreview(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "first")
	done(t, "create", vm, "base")
	done(t, "clone", vm+"@base", "clone")
	write(t, filepath.Join(vm, "root.img"), "later")
	done(t, "preview", vm, "base")
	held, err := os.Open(filepath.Join(vm, ".snapshots", "base", "root.img"))
	require.NoError(t, err)
	require.Contains(t, refused(t, "destroy", vm, "--yes"), "base")
	require.NoError(t, held.Close())
	require.Contains(t, done(t, "list", vm, "-H", "-o", "name"), "before-commit-", "nothing is lost")
	done(t, "preview", vm, "base")
	require.Empty(t, done(t, "destroy", vm, "--yes"))
	require.NoDirExists(t, vm)
	require.Equal(t, "first", start(t, filepath.Join(point, "clone", "root.img"), 5))
}

func TestCheck(t *testing.T) {
	store, point := newMount(t)
	newVM(t, point, "web", "first")
	require.Contains(t, refused(t, "check", store), "in use")
	done(t, "umount", point)
	require.Contains(t, done(t, "check", store), "1 VM, 1 file, 0 snapshots")
	require.Contains(t, done(t, "check", "--json", store), `"findings":[]`)
	refused(t, "check", filepath.Join(store, "missing"))
}
