package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// previewed is the snapshot under preview, or nothing.
func previewed(t testing.TB, vm string) string {
	t.Helper()
	var status struct{ Preview string }
	require.NoError(t, json.Unmarshal(readFile(t, snapshotPath(vm, "status")), &status))
	return status.Preview
}

// twoDisks are the files of the VM that previews are tried with: whatever
// happens, what they hold must belong together.
var twoDisks = []string{"root.img", "data.img"}

// fill writes and flushes what a text stands for over both disks, across blocks
// and not aligned to them.
func fill(t testing.TB, vm, text string) {
	t.Helper()
	for _, name := range twoDisks {
		f := open(t, filepath.Join(vm, name), os.O_RDWR|os.O_CREATE)
		for _, off := range []int64{0, 4000, 100_000} {
			writeAt(t, f, []byte(text+" of "+name), off)
		}
		require.NoError(t, f.Truncate(200_001))
		require.NoError(t, f.Sync())
		require.NoError(t, f.Close())
	}
}

// filling reads back, from a directory of both disks, which text they hold.
func filling(t testing.TB, dir string) string {
	t.Helper()
	text := ""
	for _, name := range twoDisks {
		content := readFile(t, filepath.Join(dir, name))
		require.Len(t, content, 200_001)
		for _, off := range []int{0, 4000, 100_000} {
			var got string
			_, err := fmt.Sscanf(string(content[off:off+100]), "%s of "+name, &got)
			require.NoError(t, err, "%s at %d: %q", name, off, content[off:off+100])
			if text == "" {
				text = got
			}
			require.Equal(t, text, got, "%s at %d", name, off)
		}
	}
	return text
}

// newHistory is a VM with the snapshots "one" and "two" of what they are called,
// that holds "three".
func newHistory(t testing.TB, m *mount, name string) string {
	t.Helper()
	vm := m.vm(name)
	for _, text := range []string{"one", "two"} {
		fill(t, vm, text)
		mustCommand(t, vm, "create", text)
	}
	fill(t, vm, "three")
	return vm
}

func TestPreview(t *testing.T) {
	m := newMount(t)
	vm := newHistory(t, m, "vm")
	for _, restart := range []func(){func() {}, m.remount, func() { m.kill(); m.start() }} {
		mustSnapfs(t, "preview", vm, "one")
		restart()
		require.Equal(t, "one", filling(t, vm))
		fill(t, vm, "tried")
		writeFile(t, filepath.Join(vm, "notes"), []byte("made during the preview"))
		require.NoError(t, os.Rename(filepath.Join(vm, "notes"), filepath.Join(vm, "more")))
		restart()
		require.Equal(t, "tried", filling(t, vm), "a preview can be written")
		require.Equal(t, "one", previewed(t, vm))
		require.Contains(t, mustSnapfs(t, "tree", vm), "you are here (preview of one)")
		require.Equal(t, []string{"one", "two"}, snapshotNames(t, vm))
		require.Equal(t, "one", filling(t, snapshotPath(vm, "one")), "what is previewed stays what it is")

		mustSnapfs(t, "undo", vm)
		restart()
		require.Empty(t, previewed(t, vm))
		require.Equal(t, "three", filling(t, vm))
		require.ElementsMatch(t, twoDisks, names(t, vm), "what was made during the preview is gone")
	}
	mustSnapfs(t, "preview", vm, "two")
	fill(t, vm, "four")
	mustSnapfs(t, "commit", vm)
	m.kill()
	m.start()
	require.Equal(t, "four", filling(t, vm))
	all := snapshotNames(t, vm)
	require.Len(t, all, 3)
	require.Regexp(t, `^before-commit-\d{8}T\d{6}Z$`, all[2])
	require.Equal(t, "three", filling(t, snapshotPath(vm, all[2])))
	mustCommand(t, vm, "create", "after") // grows from what was previewed
	require.Equal(t, "two", *list(t, vm)[3].Parent)
}

// TestPreviewKilled kills the daemon at any moment of a preview, an undo and a
// commit. Afterwards it is done or not, for both disks.
func TestPreviewKilled(t *testing.T) {
	m := newMount(t)
	vm := newHistory(t, m, "vm")
	state := func() [2]string { return [2]string{previewed(t, vm), filling(t, vm)} }
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	current, done := "three", 0
	for i := range 40 {
		before := state()
		control, line, after := "preview", "one", [2]string{"one", "one"}
		if before[0] != "" {
			control, line, after = "undo", "\n", [2]string{"", current}
			if random.IntN(2) == 0 {
				control, after = "commit", [2]string{"", before[1]}
			}
		}
		f := open(t, snapshotPath(vm, control), os.O_WRONLY)
		answered := make(chan error, 1)
		go func() {
			_, err := f.WriteString(line)
			answered <- err
		}()
		time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		m.kill()
		err := <-answered
		_ = f.Close() // of a file system that is gone
		m.start()

		got := state()
		require.Contains(t, [][2]string{before, after}, got, "killed during %s", control)
		if err == nil {
			require.Equal(t, after, got, "%s had been answered", control)
		}
		if got == after && control == "commit" {
			current = got[1]
		}
		if got == after {
			done++
		}
		if got[0] != "" {
			fill(t, vm, fmt.Sprint("try", i))
		}
	}
	t.Logf("%d of 40 were done", done)
	require.Equal(t, "one", filling(t, snapshotPath(vm, "one")))
	require.Equal(t, "two", filling(t, snapshotPath(vm, "two")))
}

// TestPreviewRefusals is what can't be done when, and that it changes nothing.
func TestPreviewRefusals(t *testing.T) {
	m := newMount(t)
	vm := newHistory(t, m, "vm")
	refused := func(errno syscall.Errno, commands ...[2]string) {
		t.Helper()
		before := [2]string{previewed(t, vm), filling(t, vm)}
		for _, c := range commands {
			failCommand(t, errno, vm, c[0], c[1])
		}
		require.Equal(t, before, [2]string{previewed(t, vm), filling(t, vm)})
	}
	refused(syscall.EINVAL, [2]string{"commit", "\n"}, [2]string{"undo", "\n"}, [2]string{"undo", "one"},
		[2]string{"preview", "\n"}, [2]string{"preview", "one discard=true"}, [2]string{"preview", "one memory=true"})
	refused(syscall.ENOENT, [2]string{"preview", "none"}, [2]string{"preview", "one files=none"})
	writer := open(t, filepath.Join(vm, twoDisks[1]), os.O_RDWR)
	refused(syscall.EBUSY, [2]string{"preview", "one"})
	mustCommand(t, vm, "preview", "one files="+twoDisks[0]) // is not in the way of the other disk
	require.NoError(t, writer.Close())
	mustCommand(t, vm, "undo", "\n")

	mustCommand(t, vm, "preview", "one")
	refused(syscall.EBUSY, [2]string{"preview", "one"}, [2]string{"preview", "two"}, [2]string{"create", "x"},
		[2]string{"revert", "two"}, [2]string{"delete", "one"}, [2]string{"delete", "two one"}, [2]string{"delete", "one..two"})
	require.ErrorIs(t, unix.Mkdir(snapshotPath(vm, "x"), 0o755), unix.EBUSY)
	require.ErrorIs(t, unix.Rmdir(snapshotPath(vm, "one")), unix.EBUSY)
	writer = open(t, filepath.Join(vm, twoDisks[0]), os.O_RDWR)
	refused(syscall.EBUSY, [2]string{"undo", "{}"})
	require.NoError(t, writer.Close())

	// The rest goes on.
	reader := open(t, filepath.Join(vm, twoDisks[0]), os.O_RDONLY)
	mustCommand(t, vm, "rename", "one first")
	require.Equal(t, "first", previewed(t, vm))
	mustCommand(t, vm, "clone", "two to=copy")
	mustCommand(t, vm, "clone", "first to=other")
	mustCommand(t, vm, "delete", "two")
	mustCommand(t, vm, "undo", "{}")
	require.NoError(t, reader.Close())
	require.Equal(t, "three", filling(t, vm))
	require.Equal(t, "two", filling(t, m.path("copy")))
	require.Equal(t, "one", filling(t, m.path("other")))
}

// TestPreviewOfSomeFiles mixes two states, and takes the mixture back or keeps it.
func TestPreviewOfSomeFiles(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	write := func(disk, data string) {
		writeFile(t, filepath.Join(vm, "disk"), []byte(disk))
		writeFile(t, filepath.Join(vm, "data"), []byte(data))
	}
	requireBoth := func(disk, data string) {
		t.Helper()
		requireContent(t, []byte(disk), filepath.Join(vm, "disk"))
		requireContent(t, []byte(data), filepath.Join(vm, "data"))
	}
	write("disk 1", "data 1")
	mustCommand(t, vm, "create", "base")
	write("disk 2", "data 2")
	mustSnapfs(t, "preview", vm, "base", "--files", "disk")
	requireBoth("disk 1", "data 2")
	write("disk 3", "data 3")
	m.remount()
	mustCommand(t, vm, "undo", "\n")
	requireBoth("disk 2", "data 3")
	mustCommand(t, vm, "preview", `{"name": "base", "files": ["data"]}`)
	requireBoth("disk 2", "data 1")
	write("disk 4", "data 4")
	mustCommand(t, vm, "commit", "\n")
	requireBoth("disk 4", "data 4")
	all := list(t, vm)
	require.Equal(t, []string{"disk"}, all[1].Excluded)
	requireContent(t, []byte("data 3"), snapshotPath(vm, all[1].Name, "data"))
	mustCommand(t, vm, "revert", all[1].Name+" discard=true")
	requireBoth("disk 4", "data 3")
}

// TestForcedPreview goes back and forth under an open file.
func TestForcedPreview(t *testing.T) {
	m := newMount(t)
	vm := newHistory(t, m, "vm")
	f := open(t, filepath.Join(vm, "root.img"), os.O_RDWR)
	start := func() string {
		b := make([]byte, 3)
		_, err := f.ReadAt(b, 0)
		require.NoError(t, err)
		return string(b)
	}
	failSnapfs(t, "open for writing", "preview", vm, "one")
	require.Contains(t, mustSnapfs(t, "preview", vm, "one", "--force"), "reset the guest")
	require.Equal(t, "one", start())
	writeAt(t, f, []byte("ONE"), 0)
	require.NoError(t, f.Sync())
	require.Contains(t, mustSnapfs(t, "undo", vm, "--force"), "reset the guest")
	require.Equal(t, "thr", start())
	require.NoError(t, f.Close())
	require.Equal(t, "three", filling(t, vm))
}

// TestPreviewInGuest has a machine try out an old state, then come back.
func TestPreviewInGuest(t *testing.T) {
	m := newMount(t)
	work := t.TempDir()
	vm := m.vm("web")
	disk := m.disk("web", "root.img", 64<<20)
	g := startGuest(t, work, "web", disk)
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo good >/mnt/state && umount /mnt")
	mustCommand(t, vm, "create", "good")
	inGuest(t, g, "mount /dev/vda /mnt && echo broken >/mnt/state && sync")
	failCommand(t, syscall.EBUSY, vm, "preview", "good")
	require.NoError(t, g.Quit(t.Context()))

	mustSnapfs(t, "preview", vm, "good")
	g = startGuest(t, work, "web", disk)
	require.Equal(t, "good\n", inGuest(t, g, "mount /dev/vda /mnt && cat /mnt/state && seq 100000 >/mnt/tried"))
	switchOff(t, g)
	run(t, "e2fsck", "-f", "-n", disk)

	mustSnapfs(t, "undo", vm)
	g = startGuest(t, work, "web", disk)
	require.Equal(t, "broken\n", inGuest(t, g, "mount /dev/vda /mnt && cat /mnt/state && ! test -e /mnt/tried"))
	switchOff(t, g)
}
