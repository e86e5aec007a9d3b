package layer

// The process that crash tests kill: it works on a store, and says before and after each step what it does.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// victimEnv makes the test binary a victim: the store's directory, and the count to begin with.
const victimEnv = "SNAPFS_TEST_VICTIM"

// victimSession says that descriptor 3 is a session, in which one victim goes on where the last was killed.
const victimSession = "SNAPFS_TEST_SESSION"

// The victim writes a few blocks about the end of a region; before them is a hole.
const (
	victimBase  = 1014
	victimSize  = 1034 * blockSize
	victimFirst = victimBase * blockSize / sector
	victimEnd   = victimSize / sector
)

// victimFiles are flushed before anything is promised of them. A third one is written all the time.
var victimFiles = []string{"a", "b"}

const hammered = "c"

type worker struct {
	vm    *VM
	files []*File
	count uint64
	names []string // of snapshots
	rand  *rand.Rand
}

// victim works until it is killed. Whatever fails ends it with a line that the test does not know.
func victim(arg string) {
	dir, count, _ := strings.Cut(arg, "=")
	w := &worker{}
	_, _ = fmt.Sscan(count, &w.count)
	w.rand = rand.New(rand.NewPCG(w.count, 2))
	if err := w.open(dir); err != nil {
		fmt.Println("failed to open:", err)
		os.Exit(1)
	}
	go w.hammer(w.count)
	for {
		for _, step := range []func() error{w.write, w.flush, w.step} {
			if err := step(); err != nil {
				fmt.Println("failed:", err)
				os.Exit(1)
			}
		}
	}
}

func (w *worker) open(dir string) error {
	o := Options{MapMemory: 64 << 10, MaxOpenFiles: 4}
	if os.Getenv(victimSession) != "" {
		var err error
		if o.Session, err = AdoptSession(3); err != nil {
			return err
		}
	}
	s, err := Open(dir, o)
	if err != nil {
		return err
	}
	for s.journal.ask(); w.count%3 > 0 && !s.journal.open.Load(); { // at times it goes on without
		time.Sleep(time.Millisecond)
	}
	if w.vm, err = s.VM("web"); err != nil {
		if w.vm, err = s.CreateVM("web", 0o755, 0, 0); err != nil {
			return err
		}
	}
	for _, name := range append([]string{hammered}, victimFiles...) {
		f, _, err := w.vm.Create(name, 0o644, 0, 0, false)
		if err != nil {
			return err
		}
		w.files = append(w.files, f)
	}
	for _, n := range w.vm.Snapshots() {
		w.names = append(w.names, n.Name())
	}
	return nil
}

// hammer writes the third file, reads it, and gives it back again.
func (w *worker) hammer(n uint64) {
	f, r := w.files[0], rand.New(rand.NewPCG(n, 3))
	var p [8 * sector]byte
	for ; ; n++ {
		first := victimFirst + r.IntN(victimEnd-victimFirst-8)
		for i := range 8 {
			stamp(p[i*sector:], first+i, n)
		}
		_, err := waitFor(f.Write, p[:], int64(first)*sector)
		switch {
		case err != nil:
		case n%5 == 0:
			err = f.Flush(true)
		case n%7 == 0:
			err = f.Discard(int64(first)*sector, 5*blockSize)
		}
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
}

// say tells the test about a step.
func (w *worker) say(what string, args ...any) { fmt.Println(append([]any{what}, args...)...) }

// write puts the next count into all sectors, some at a time. Now and then it flushes half way, so that what follows is
// little enough for the journal.
func (w *worker) write() error {
	w.count++
	halfway := w.rand.IntN(2) == 0
	w.say("write", w.count)
	for _, f := range w.files[1:] {
		for first := victimFirst; first < victimEnd; {
			n := min(1+w.rand.IntN(100), victimEnd-first)
			p := make([]byte, n*sector)
			for i := range n {
				stamp(p[i*sector:], first+i, w.count)
			}
			if _, err := waitFor(f.Write, p, int64(first)*sector); err != nil {
				return err
			}
			first += n
			if halfway && f.Attr().Size == victimSize {
				if err := f.Flush(true); err != nil {
					return err
				}
			}
		}
	}
	w.say("wrote", w.count)
	return nil
}

func (w *worker) flush() error {
	for _, f := range w.files[1:] {
		if err := f.Flush(true); err != nil {
			return err
		}
	}
	w.say("flushed", w.count)
	return nil
}

// step does one thing of which a crash must leave nothing or all.
func (w *worker) step() error {
	switch n := w.rand.IntN(10); {
	case n < 4 || len(w.names) == 0:
		return w.snapshot()
	case n < 6:
		return w.delete()
	case n < 8:
		return w.revert()
	case n < 9:
		return w.resize()
	}
	w.say("discard")
	return w.files[1].Discard(victimSize-1-w.rand.Int64N(25*blockSize), 1+w.rand.Int64N(10*blockSize))
}

func (w *worker) snapshot() error {
	name := fmt.Sprintf("s%d", w.count)
	w.say("snapshot", name, w.count)
	if w.count%2 == 0 {
		longAfterFlushes(w.vm)
	}
	if _, err := w.vm.CreateSnapshot(CreateOptions{Name: name}); err != nil {
		return err
	}
	w.names = append(w.names, name)
	w.say("snapshot-done")
	return nil
}

func (w *worker) delete() error {
	i := w.rand.IntN(len(w.names))
	name := w.names[i]
	w.names = append(w.names[:i], w.names[i+1:]...)
	if _, err := w.vm.Snapshot(name); err != nil {
		return nil // one that a revert kept, and later ones thinned out
	}
	w.say("delete", name)
	if _, err := w.vm.DeleteSnapshots([]string{name}); err != nil {
		return err
	}
	w.say("delete-done")
	return nil
}

func (w *worker) revert() error {
	name := w.names[w.rand.IntN(len(w.names))]
	if !strings.HasPrefix(name, "s") {
		return nil
	}
	discard := w.rand.IntN(2) == 0
	w.say("revert", name, discard)
	if _, err := w.vm.Revert(RevertOptions{Name: name, Discard: discard, Force: true}); err != nil {
		return err
	}
	w.say("revert-done")
	return nil
}

// resize shrinks the first file, and grows it some of the way.
func (w *worker) resize() error {
	for size := w.rand.Int64N(victimSize); size < victimSize; size += 1 + w.rand.Int64N(victimSize/2) {
		w.say("resize", size)
		if _, err := w.files[1].SetAttr(SetAttr{Size: &size}); err != nil {
			return err
		}
		w.say("resize-done")
	}
	return nil
}
