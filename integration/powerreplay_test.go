package integration

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var powerPoints = flag.Int("points", 16, "at how many points TestPowerReplay has the power fail, on each file system")

// TestPowerReplay does random things on a store whose device's writes are logged,
// and rebuilds the device as it may be if the power fails amid one of them: with
// all that was written until then, or without some of what no flush came after.
func TestPowerReplay(t *testing.T) {
	for _, fsType := range slices.Sorted(maps.Keys(recorderMounts)) {
		t.Run(fsType, func(t *testing.T) {
			rec := newRecorder(t, fsType, 1<<30)
			r := newRandom(t, rec.newMount(), nil)
			require.NoError(t, rec.log.checkSuper()) // it comes with the first flush
			p := newReplay(rec, r.rng)
			step, amid := 0, 0
			for range *powerPoints {
				for range 10 + r.rng.IntN(30) {
					r.step(step)
					step++
				}
				do := func() { r.step(step); step++ }
				if r.rng.IntN(2) == 0 {
					if flush := r.flushesLittle(); flush != nil {
						do = flush
					}
				}
				c, at := r.doAndCut(rec, p, do)
				if c.begun && !c.done {
					amid++
				}
				rec.verifyCut(p, c, at)
			}
			r.verify()
			t.Logf("%s: the power failed %d times in %d operations, %d times amid one; %d blocks of %d MiB written were lost",
				fsType, *powerPoints, step, amid, p.dropped, rec.position()>>20)
		})
	}
}

// TestPowerReplayNewStore has the power fail while a store is made: the next mount
// makes it, or goes on with it.
func TestPowerReplayNewStore(t *testing.T) {
	for _, fsType := range slices.Sorted(maps.Keys(recorderMounts)) {
		t.Run(fsType, func(t *testing.T) {
			rec := newRecorder(t, fsType, 1<<30)
			from := rec.position()
			rec.newMount()
			p := newReplay(rec, newRand(t))
			points := p.between(from, rec.position())
			for i, at := range points {
				if i%(1 + len(points) / *powerPoints) == 0 {
					m := rec.mountLost(p, at)
					m.start()
					require.Empty(t, names(t, m.dir))
					rec.unmountLost(m)
				}
			}
		})
	}
}

const little = "flush a little"

// flushesLittle has a file of which the store's journal has something, and returns
// what has it get one more record. It is nil if the VM has no file.
func (r *random) flushesLittle() func() {
	if r.vms[r.vm] == nil {
		r.vm = pick(r.rng, r.vms)
	}
	name := pick(r.rng, r.vms[r.vm].files)
	if name == "" {
		return nil
	}
	path := filepath.Join(r.m.path(r.vm), name)
	if m := r.vms[r.vm].files[name]; len(m.data) < 1<<20 {
		require.NoError(r, os.Truncate(path, 1<<20))
		m.truncate(1 << 20)
	}
	flush := func() { r.flushLittle(path, r.vms[r.vm].files[name]) }
	for range 4 + r.rng.IntN(12) {
		flush()
	}
	return func() {
		flush()
		r.what = little
	}
}

// flushLittle writes a few blocks within a file, and has them made durable.
func (r *random) flushLittle(path string, m *modelFile) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(r, err)
	defer f.Close()
	b := make([]byte, (1+r.rng.IntN(3))*modelBlock)
	for i := range b {
		b[i] = byte(r.rng.Uint32() | 1)
	}
	off := r.rng.IntN((len(m.data)-len(b))/modelBlock) * modelBlock
	writeAt(r, f, b, int64(off))
	m.write(off, b)
	require.NoError(r, unix.Fdatasync(int(f.Fd())))
	m.flushed()
}

// doAndCut does something, mostly what writes something, and chooses a position of
// the log amid it or after it.
func (r *random) doAndCut(rec *recorder, p *replay, do func()) (*cut, int64) {
	for tries := 0; ; tries++ {
		writeBackSome(r, r)
		c := &cut{before: cloneVMs(r.vms)}
		from := rec.position()
		do()
		to := rec.position()
		c.after, c.what, c.vm = cloneVMs(r.vms), r.what, r.vm
		writeBackSome(r, r)
		points := p.between(from, rec.position())
		if len(points) < 3 && tries < 10 {
			continue
		}
		at := points[r.rng.IntN(len(points))]
		if r.what == little && r.rng.IntN(2) == 0 { // that was just answered
			at = to
		}
		if r.what == "destroy" { // removes one thing after the other
			at = max(at, to)
		}
		c.begun, c.done = at > from, at >= to
		return c, at
	}
}

func cloneVMs(vms map[string]*modelVM) map[string]*modelVM {
	out := map[string]*modelVM{}
	for name, vm := range vms {
		out[name] = vm.clone()
	}
	return out
}

// writeBackSome does as the kernel may at any time: it has some of the layers'
// dirty pages written, which makes nothing of them durable.
func writeBackSome(t testing.TB, r *random) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.m.store, "layers", "*"))
	require.NoError(t, err)
	for _, path := range files {
		if r.rng.IntN(2) == 0 {
			continue
		}
		f, err := os.Open(path)
		if os.IsNotExist(err) {
			continue // it has been reclaimed
		}
		require.NoError(t, err)
		require.NoError(t, unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
		require.NoError(t, f.Close())
	}
}

// verifyCut compares what a power loss has left with what it may leave.
func (r *recorder) verifyCut(p *replay, c *cut, at int64) {
	t := r.t
	t.Helper()
	m := r.mountLost(p, at)
	m.check()
	m.start()
	if err := c.verify(t, m); err != nil {
		require.NoError(t, err, "after a power loss at %d, %s of VM %s: begun %v, done %v", at, c.what, c.vm, c.begun, c.done)
	}
	r.unmountLost(m)
}

// mountLost mounts the file system that a power loss has left; the store on it is
// not served yet.
func (r *recorder) mountLost(p *replay, at int64) *mount {
	t := r.t
	t.Helper()
	image := p.image(at)
	dir := filepath.Join(filepath.Dir(image), "lost")
	m := &mount{t: t, store: filepath.Join(dir, "store"), dir: dir + "-mnt"}
	for _, d := range []string{dir, m.dir} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	run(t, "mount", "-o", "loop,"+recorderMounts[r.fsType], image, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // if the test has failed
	t.Cleanup(m.cleanup)
	return m
}

// unmountLost has the daemon stop, which must leave a sound store.
func (r *recorder) unmountLost(m *mount) {
	r.t.Helper()
	m.stop()
	m.check()
	run(r.t, "umount", filepath.Dir(m.store))
}
