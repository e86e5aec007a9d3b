package layer

// Power cuts: a store on a file system of its own, of which only what had reached the device is left.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// disk is an ext4 file system in an image, mounted. What of it is dirty in the page cache is not in the image.
type disk struct {
	dir   string // of the images
	image string
	count int
	mount string
}

// newDisk makes one, with more of mkfs.ext4's options. It needs root, mkfs.ext4 and a loop device.
func newDisk(t *testing.T, options ...string) *disk {
	t.Helper()
	d := &disk{dir: t.TempDir()}
	d.mount = filepath.Join(d.dir, "mnt")
	d.image = filepath.Join(d.dir, "0")
	require.NoError(t, os.Mkdir(d.mount, 0o700))
	require.NoError(t, os.WriteFile(d.image, nil, 0o600))
	require.NoError(t, os.Truncate(d.image, 1<<30))
	options = append([]string{"-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"}, options...)
	command(t, "mkfs.ext4", append(options, d.image)...)
	d.attach(t)
	t.Cleanup(func() { command(t, "umount", "--lazy", d.mount) }) // also where a failed test left a file open
	return d
}

func command(t tester, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// attach mounts the image. The kernel writes nothing back by itself for long.
func (d *disk) attach(t tester) {
	t.Helper()
	command(t, "mount", "-t", "ext4", "-o", "loop,noatime,commit=600", d.image, d.mount)
}

// cut keeps what is on the device now, whatever is still going on.
func (d *disk) cut(t tester) (image string) {
	t.Helper()
	d.count++
	image = filepath.Join(d.dir, fmt.Sprint(d.count))
	copySparse(t, d.image, image)
	return image
}

// restart mounts what a cut has kept. A file of what was mounted may still be about to be closed.
func (d *disk) restart(t tester, image string) {
	t.Helper()
	command(t, "umount", "--lazy", d.mount)
	require.NoError(t, os.Remove(d.image))
	d.image = image
	d.attach(t)
}

func TestModelOverPowerCuts(t *testing.T) {
	d := newDisk(t)
	run, records := 0, uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(d.mount, fmt.Sprint(run))
		defer os.RemoveAll(dir)
		records += runMachine(t, dir, func(t tester, s *Store) *Store {
			s.closing.Do(func() {
				abandonWork(s)
				writeBackSome(t, s)
				image := d.cut(t)
				s.closed = s.release()
				d.restart(t, image)
			})
			requireEnd(t, dir)
			o := s.opts
			o.Session = nil
			again, err := Open(dir, o)
			require.NoError(t, err)
			return again
		})
	})
	requireJournaled(t, records)
	t.Logf("%d flushes to the journal", records)
}

// writeBackSome does as the kernel may at any time: it writes some of the dirty data files back, without being asked.
func writeBackSome(t tester, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(layersDir(s))
	require.NoError(t, err)
	for i, entry := range entries {
		if i%2 == 0 {
			continue
		}
		f, err := os.Open(filepath.Join(layersDir(s), entry.Name()))
		require.NoError(t, err)
		require.NoError(t, unix.Fdatasync(int(f.Fd())))
		require.NoError(t, f.Close())
	}
}

// A process that works on a store, and power that goes at any instant.
func TestPowerCut(t *testing.T) {
	d := newDisk(t)
	p := &promised{dir: filepath.Join(d.mount, "store"), snapshots: map[string]uint64{}}
	for n := 0; p.goesOn(n, 12); n++ {
		var image string
		p.run(t, func(process *os.Process) {
			stop(t, process) // so that all of the image is of one instant
			image = d.cut(t)
			require.NoError(t, process.Kill())
		})
		d.restart(t, image)
		p.verify(t)
	}
	p.done(t)
}

// stop halts a process, and returns once none of its threads is in the kernel any more.
func stop(t tester, process *os.Process) {
	t.Helper()
	require.NoError(t, process.Signal(syscall.SIGSTOP))
	for running := true; running; {
		running = false
		states, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", process.Pid))
		require.NoError(t, err)
		for _, path := range states {
			stat, err := os.ReadFile(path)
			if err != nil {
				continue // the thread has ended
			}
			_, state, _ := strings.Cut(string(stat), ") ")
			running = running || !strings.HasPrefix(state, "T")
		}
	}
}
