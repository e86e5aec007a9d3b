package blockmap

// Damage of every kind to every kind of file: it is refused by name, with nothing touched, or it does not show.

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const counterName = "commits"

// oneIn says whether to do this one of a row of cases that have one thread each: under the race detector, which has seen all
// of it after a few, one in n.
func oneIn(n int) bool { return !testing.Short() || rand.IntN(n) == 0 }

// openCounted opens an index with a counter, both in dir.
func openCounted(dir string) (*Index, error) {
	return Open(filepath.Join(dir, "index"), Options{Counter: filepath.Join(dir, counterName)})
}

// crashed makes an index as a crash leaves it: tables, and the logs of two memtables.
func crashed(t *testing.T) (dir string, content map[string]string) {
	t.Helper()
	live, dir := filepath.Join(t.TempDir(), "live"), filepath.Join(t.TempDir(), "crashed")
	n := 0
	commit := func(x *Index, commits int) {
		for range commits {
			n++
			require.NoError(t, x.Update(func(tx *Tx) error {
				tx.Put(fmt.Appendf(nil, "k%04d", n%500), fmt.Appendf(nil, "%0100d", n))
				tx.Delete(fmt.Appendf(nil, "k%04d", n*7%500))
				return nil
			}))
		}
	}
	require.NoError(t, os.Mkdir(live, 0o700))
	for range 2 {
		x, err := openCounted(live)
		require.NoError(t, err)
		commit(x, 300)
		require.NoError(t, x.Close())
	}
	x, err := openCounted(live)
	require.NoError(t, err)
	commit(x, 200)
	content = everything(t, x)
	require.Eventually(t, x.Settled, waitFor, tick)
	copyAll(t, live, dir)
	require.NoError(t, x.Close())
	splitLog(t, filepath.Join(dir, "index"))
	return dir, content
}

// splitLog makes two logs of the one that holds commits: as if Badger had gone on to the next in its middle.
func splitLog(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, memPattern))
	require.NoError(t, err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		if len(data) == 0 {
			require.NoError(t, os.Remove(name))
			continue
		}
		var ends []int
		for at := logHeader; ; {
			meta, _, _, size := cutEntry(data[at:])
			if size == 0 {
				break
			}
			if at += size; meta&entryEndTxn != 0 {
				ends = append(ends, at)
			}
		}
		scan := scanLog(data)
		require.EqualValues(t, len(ends), scan.last-scan.first+1, "%d to %d", scan.first, scan.last)
		require.Equal(t, ends[len(ends)-1], scan.end)
		half, end, tail := ends[len(ends)/2], ends[len(ends)-1], make([]byte, 100)
		second := slices.Concat(data[:logHeader], data[half:end], tail)
		var id int
		_, err = fmt.Sscanf(filepath.Base(name), "%d.mem", &id)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(name, slices.Concat(data[:half], tail), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.mem", id+1)), second, 0o600))
	}
}

func everything(t *testing.T, x *Index) map[string]string {
	t.Helper()
	found := make(map[string]string)
	require.NoError(t, x.View(func(tx *Tx) error {
		return tx.Scan([]byte("k"), func(key, value []byte) error {
			found[string(key)] = string(value)
			return nil
		})
	}))
	return found
}

func copyAll(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// filesOf lists what is in dir, but for what is empty.
func filesOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	names = []string{counterName}
	entries, err := os.ReadDir(filepath.Join(dir, "index"))
	require.NoError(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Size() > 0 {
			names = append(names, filepath.Join("index", e.Name()))
		}
	}
	return names
}

// spots are where a file is damaged: most of them lie where there is something, and more of them in files that matter.
func spots(name string, data []byte) (at []int) {
	switch ext := filepath.Ext(name); {
	case ext == ".vlog", strings.HasSuffix(name, "DISCARD"), strings.HasSuffix(name, "LOCK"), strings.HasSuffix(name, "KEYREGISTRY"):
		return []int{0, len(data) / 2}
	}
	used := len(bytes.TrimRight(data, "\x00"))
	r := rand.New(rand.NewPCG(1, uint64(len(name))))
	for i := range min(16, used) {
		at = append(at, i, used-1-i)
	}
	for range 30 {
		at = append(at, r.IntN(max(used, 1)))
	}
	at = append(at, used, len(data)-1)
	slices.Sort(at)
	return slices.DeleteFunc(slices.Compact(at), func(i int) bool { return i >= len(data) })
}

func TestDamage(t *testing.T) {
	pristine, content := crashed(t)
	work := filepath.Join(t.TempDir(), "work")
	renew := func() {
		require.NoError(t, os.RemoveAll(work))
		copyAll(t, pristine, work)
	}
	refused, unseen := make(map[string]int), make(map[string]int)
	// try opens what is damaged, and undoes the damage where that is refused.
	try := func(name string, original []byte, format string, args ...any) {
		what := name + " " + fmt.Sprintf(format, args...)
		x, err := openCounted(work)
		if err != nil {
			refused[filepath.Ext(name)]++
			require.NotContains(t, err.Error(), "\n", what)
			require.NoError(t, os.WriteFile(filepath.Join(work, name), original, 0o600))
			return
		}
		unseen[filepath.Ext(name)]++
		require.Equal(t, content, everything(t, x), what)
		require.NoError(t, x.Update(func(tx *Tx) error { tx.Put([]byte("k"), nil); return nil }), what)
		require.NoError(t, x.Close(), what)
		renew()
	}
	renew()
	for _, name := range filesOf(t, pristine) {
		path := filepath.Join(work, name)
		original, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, at := range spots(name, original) {
			if !oneIn(20) {
				continue
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte{original[at] ^ 1<<(at%8)}, int64(at))
			require.NoError(t, err)
			require.NoError(t, f.Close())
			try(name, original, "with a bit flipped at %d", at)
		}
		for _, size := range []int{0, 1, 10, len(original) / 3, len(original) - 1} {
			if !oneIn(5) {
				continue
			}
			require.NoError(t, os.Truncate(path, int64(size)))
			try(name, original, "cut off at %d", size)
		}
		require.NoError(t, os.Remove(path))
		try(name, original, "missing")
	}
	for _, what := range []string{".sst", ".mem"} {
		require.True(t, refused[what] > 10 || testing.Short())
	}
	t.Logf("refused %v, without effect %v", refused, unseen)

	// One that is whole opens still, also after all those attempts.
	x, err := openCounted(work)
	require.NoError(t, err)
	require.Equal(t, content, everything(t, x))
	require.NoError(t, x.Close())
}

// A log that is damaged anywhere that matters is an ErrDamaged that names it.
func TestDamagedLogIsNamed(t *testing.T) {
	pristine, _ := crashed(t)
	logs, err := filepath.Glob(filepath.Join(pristine, "index", memPattern))
	require.NoError(t, err)
	name := logs[len(logs)-1]
	original, err := os.ReadFile(name)
	require.NoError(t, err)
	used := len(bytes.TrimRight(original, "\x00"))
	for _, at := range []int{0, 4, 7, used - 8} {
		data := bytes.Clone(original)
		data[at] ^= 1
		require.NoError(t, os.WriteFile(name, data, 0o600))
		_, err := openCounted(pristine)
		require.ErrorIs(t, err, ErrDamaged, "%d", at)
		require.ErrorContains(t, err, filepath.Base(name), "%d", at)
	}
}

// Files of another index, or older ones of the same.
func TestForeignFiles(t *testing.T) {
	one, _ := crashed(t)
	other, _ := crashed(t)
	older := filepath.Join(t.TempDir(), "older")
	copyAll(t, one, older)
	x, err := openCounted(one)
	require.NoError(t, err)
	put(t, x, "k", "new")
	require.NoError(t, x.Close())

	for name, from := range map[string]string{
		"index of another": other, "commits of another": other, "index of before": older,
	} {
		part, _, _ := strings.Cut(name, " ")
		mixed := filepath.Join(t.TempDir(), "mixed")
		copyAll(t, one, mixed)
		require.NoError(t, os.RemoveAll(filepath.Join(mixed, part)))
		copyAll(t, filepath.Join(from, part), filepath.Join(mixed, part))
		_, err := openCounted(mixed)
		require.ErrorIs(t, err, ErrDamaged, name)
	}
}

// A counter that lags, as after a power loss, is no damage: it catches up.
func TestCounterLags(t *testing.T) {
	dir := t.TempDir()
	x, err := openCounted(dir)
	require.NoError(t, err)
	put(t, x, "k", "1")
	lagging, err := os.ReadFile(filepath.Join(dir, counterName))
	require.NoError(t, err)
	for i := range 5 {
		put(t, x, "k", fmt.Sprint(i))
	}
	require.NoError(t, x.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, counterName), lagging, 0o600))
	x, err = openCounted(dir)
	require.NoError(t, err)
	require.Equal(t, "4", string(get(t, x, "k")))
	put(t, x, "k", "5")
	require.EqualValues(t, x.committed, x.counter.number())
	require.NoError(t, x.Close())
}
