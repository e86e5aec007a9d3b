package layer

// A process is killed wherever it happens to be, and the store it leaves opened: what was flushed is there, and each
// operation has happened or not.

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	p := &promised{dir: dir, snapshots: map[string]uint64{}}
	for n := 0; p.goesOn(n, 20); n++ {
		p.run(t, func(process *os.Process) { require.NoError(t, process.Kill()) })
		p.verify(t)
	}
	p.done(t)
}

// What the victim only wrote outlives it, if the next one has its session.
func TestTakenOver(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	p := &promised{dir: filepath.Join(t.TempDir(), "store"), snapshots: map[string]uint64{}, session: session}
	for n := 0; p.goesOn(n, 30); n++ {
		p.run(t, func(process *os.Process) { require.NoError(t, process.Kill()) })
		p.verify(t)
	}
	p.done(t)
}

const victimFlushes = 10 // to the journal, at least

// goesOn says whether there is another victim after n: on a busy machine some come to little. The race detector, which looks
// at who looks at what they leave, sees all with a few.
func (p *promised) goesOn(n, least int) bool {
	if testing.Short() {
		return n < least/6
	}
	return n < least || p.records <= victimFlushes && n < 20*least
}

func (p *promised) done(t *testing.T) {
	t.Helper()
	if !testing.Short() {
		require.Greater(t, p.records, uint64(victimFlushes), "flushes went to the journal")
	}
	t.Logf("after %d rounds of the victim, and %d flushes to the journal", p.count, p.records)
}

// promised is what the victim's lines say that there must be.
type promised struct {
	dir     string
	session *Session // nil: each victim starts cold

	count  uint64   // of the last write begun
	least  uint64   // of the last flush
	zeros  bool     // the first file may have some
	sizes  []int64  // that the first file may have
	target uint64   // of a revert begun; 0: none
	sure   []string // snapshots that must be there
	maybe  string   // and one that may

	records   uint64            // that the journal had
	snapshots map[string]uint64 // count of each that ever was begun
}

// run lets a victim work for a while, ends it, and notes what it has said.
func (p *promised) run(t *testing.T, end func(*os.Process)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s=%d", victimEnv, p.dir, p.count))
	if p.session != nil {
		cmd.Env = append(cmd.Env, victimSession+"=3")
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(p.sessionFD(t)), "session")}
		defer cmd.ExtraFiles[0].Close()
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	delay := time.Duration(rand.Int64N(int64(100 * time.Millisecond)))
	ended := make(chan struct{})
	time.AfterFunc(delay, func() {
		defer close(ended)
		end(cmd.Process)
	})
	for more := true; more; more = lines.Scan() {
		p.note(t, lines.Text())
	}
	<-ended
	_ = cmd.Wait() // it was killed
}

// sessionFD is another descriptor of the session.
func (p *promised) sessionFD(t *testing.T) int {
	fd, err := unix.Dup(p.session.FD())
	require.NoError(t, err)
	return fd
}

func (p *promised) note(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	arg := func(into any) {
		_, err := fmt.Sscan(words[1], into)
		require.NoError(t, err, line)
	}
	switch words[0] {
	case "write":
		arg(&p.count)
		p.sizes = append(p.sizes, victimSize)
	case "wrote":
		if p.session == nil {
			break
		}
		fallthrough
	case "flushed":
		arg(&p.least)
		p.zeros, p.sizes = false, []int64{victimSize}
	case "snapshot":
		p.maybe = words[1]
		p.snapshots[words[1]] = p.count
	case "snapshot-done":
		p.sure, p.maybe = append(p.sure, p.maybe), ""
	case "delete":
		p.maybe = words[1]
		p.sure = slices.DeleteFunc(p.sure, func(n string) bool { return n == p.maybe })
	case "delete-done":
		p.maybe = ""
	case "revert":
		p.target = p.snapshots[words[1]]
	case "revert-done":
		p.least, p.target = p.target, 0
		p.zeros, p.sizes = false, []int64{victimSize}
	case "resize":
		var size int64
		arg(&size)
		p.sizes, p.zeros = append(p.sizes, size), true
	case "resize-done":
		p.sizes = p.sizes[len(p.sizes)-1:]
	case "discard":
		p.zeros = true
	default:
		require.Fail(t, "the victim failed by itself", line)
	}
}

// verify looks at what was left, and goes on from there.
func (p *promised) verify(t *testing.T) {
	t.Helper()
	var o Options
	if p.session != nil {
		var err error
		o.Session, err = AdoptSession(p.sessionFD(t))
		require.NoError(t, err)
	} else {
		requireSound(t, p.dir)
		requireEnd(t, p.dir)
		requireTrueCounts(t, p.dir)
	}
	s, err := Open(p.dir, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	p.records = s.journal.position()
	v := vmNamed(t, s, "web")
	p.verifySnapshots(t, v)
	p.verifyFiles(t, v)
	for _, e := range v.Files() {
		e.File.awaitVoid()
		observe(t, e.File, e.File.FindExtent, e.File.Attr())
	}
}

func (p *promised) verifySnapshots(t *testing.T, v *VM) {
	t.Helper()
	var sure []string
	for _, n := range v.Snapshots() {
		name := n.Name()
		require.Equal(t, StateReady, n.Info().State)
		counts, zeros := victimCounts(t, func(file string) []byte { return viewed(t, v, name, file) })
		require.Len(t, counts, 1, "snapshot %s is of one instant", name)
		require.False(t, zeros)
		if strings.HasPrefix(name, "before-revert-") {
			continue
		}
		sure = append(sure, name)
		require.Equal(t, p.snapshots[name], counts[0], "snapshot %s", name)
	}
	for _, name := range p.sure {
		require.Contains(t, sure, name)
	}
	for _, name := range sure {
		require.True(t, name == p.maybe || slices.Contains(p.sure, name), "snapshot %s was deleted", name)
	}
	p.sure, p.maybe = sure, ""
}

func (p *promised) verifyFiles(t *testing.T, v *VM) {
	t.Helper()
	first := fileNamed(t, v, victimFiles[0]).Attr().Size
	counts, zeros := victimCounts(t, func(file string) []byte { return content(t, fileNamed(t, v, file)) })
	reverted := p.target != 0 && slices.Equal(counts, []uint64{p.target}) && first == victimSize && !zeros
	if !reverted && p.least > 0 {
		if p.session != nil { // the victim may have been growing it
			require.GreaterOrEqual(t, first, slices.Min(p.sizes))
			require.LessOrEqual(t, first, slices.Max(p.sizes))
		} else {
			require.Contains(t, p.sizes, first)
		}
		require.True(t, !zeros || p.zeros, "zeros in place of what was flushed")
		for _, n := range counts {
			require.True(t, n >= p.least && n <= p.count || n == p.least, "a sector is of write %d, between %d and %d", n, p.least, p.count)
		}
	}
	p.target, p.zeros, p.sizes = 0, true, []int64{first}
	p.least = 0
	if len(counts) > 0 {
		p.least = counts[0]
	}
}

// victimCounts lists the counts in the victim's files, rising, and says whether there are zeros, if only in a part of a
// sector.
func victimCounts(t *testing.T, read func(file string) []byte) (counts []uint64, zeros bool) {
	t.Helper()
	for _, name := range victimFiles {
		data := read(name)
		for i := victimFirst; i < len(data)/sector; i++ {
			n, err := stampOf(data[i*sector:(i+1)*sector], i)
			if err != nil || n == 0 {
				zeros = true
				continue
			}
			if at, known := slices.BinarySearch(counts, n); !known {
				counts = slices.Insert(counts, at, n)
			}
		}
	}
	return counts, zeros
}

// requireTrueCounts checks that the index counts as many blocks of each layer as it lists.
func requireTrueCounts(t *testing.T, dir string) {
	t.Helper()
	index, err := blockmap.Open(filepath.Join(dir, indexName), blockmap.Options{})
	require.NoError(t, err)
	defer index.Close()
	c, err := readCatalog(index)
	require.NoError(t, err)
	listed := make(map[LayerID]int64)
	err = index.View(func(tx *blockmap.Tx) error {
		for lin := range c.lineages {
			err := tx.Records(lin, func(_ uint64, id LayerID, r *blockmap.Record) error {
				listed[id] += int64(r.Data.Count())
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
	for id, l := range c.layers {
		require.Equal(t, listed[id], l.Blocks, "blocks of layer %d", id)
	}
}
