package layer

// The journal's file: what is read from it, whatever a crash or damage has left of it.

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

const smallRing = journalHeaders + journalBlocks + 1 // slots; no journal has less

// newRing is a journal of its own, open, in dir.
func newRing(t tester, dir string, slots int) *journal {
	t.Helper()
	file, err := makeJournal(dir, slots, 1)
	require.NoError(t, err)
	j := newJournal()
	j.start(file)
	return j
}

// write waits until blocks of a layer are on disk.
func (j *journal) write(l LayerID, blocks []uint64, fill func(data []byte) error) error {
	written := make(chan error, 1)
	if err := j.submit(l, blocks, fill, func(err error) { written <- err }); err != nil {
		return err
	}
	return <-written
}

// record writes blocks of a layer, from first on, with data of their own.
func record(t tester, j *journal, l LayerID, first uint64, blocks int) (journalRecord, error) {
	t.Helper()
	r := journalRecord{number: j.position(), layer: l, data: pattern(j.position(), blocks*blockSize)}
	for i := range uint64(blocks) {
		r.blocks = append(r.blocks, first+i)
	}
	return r, j.write(l, r.blocks, func(data []byte) error { copy(data, r.data); return nil })
}

// loadRing is loadJournal, whatever its identity is.
func loadRing(dir string, known uint64, marked bool) (*journalFile, []journalRecord, func(), error) {
	r := storeRecord{JournalGap: known, JournalMark: marked}
	path, p := filepath.Join(dir, journalName), make([]byte, journalHeaders*blockSize)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		if f, err := os.Open(path); err == nil {
			_, _ = f.ReadAt(p, 0)
			_ = f.Close()
		}
	}
	if j := (&journalFile{}); j.readHeaders(p) == nil {
		r.Journal = hex.EncodeToString(j.id[:])
	}
	return loadJournal(dir, r)
}

// bytesOf is all that the file has.
func bytesOf(t tester, dir string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(dir, journalName))
	require.NoError(t, err)
	return p
}

// parse reads a file's content as a start does.
func parse(p []byte) ([]journalRecord, error) {
	p = slices.Clone(p)
	j := &journalFile{slots: len(p) / blockSize}
	if err := j.readHeaders(p); err != nil {
		return nil, err
	}
	records := j.find(p)
	if n := len(records); n > 0 {
		j.next = records[n-1].number + 1
	}
	return records, j.whole(records, &journalMark{}, 0)
}

func sameRecord(a, b journalRecord) bool {
	return a.number == b.number && a.layer == b.layer && slices.Equal(a.blocks, b.blocks) && bytes.Equal(a.data, b.data)
}

// requireRecords wants those in got, and nothing in got that was never written.
func requireRecords(t tester, want, written, got []journalRecord) {
	t.Helper()
	read := make(map[uint64]journalRecord)
	for _, r := range got {
		i := slices.IndexFunc(written, func(w journalRecord) bool { return w.number == r.number })
		require.GreaterOrEqual(t, i, 0, "record %d was never written", r.number)
		require.True(t, sameRecord(r, written[i]), "record %d is another than was written", r.number)
		read[r.number] = r
	}
	for _, r := range want {
		require.Contains(t, read, r.number, "a record that is needed")
	}
	require.True(t, slices.IsSortedFunc(got, func(a, b journalRecord) int { return int(a.number) - int(b.number) }))
}

func TestJournalFile(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 100)
	id := j.file.id
	var written []journalRecord
	for _, blocks := range []int{1, 2, journalBlocks, 3} {
		r, err := record(t, j, LayerID(blocks), 1<<30, blocks)
		require.NoError(t, err)
		written = append(written, r)
		file, got, release, err := loadRing(dir, 0, true)
		require.NoError(t, err)
		require.Equal(t, id, file.id)
		requireRecords(t, written, written, got)
		require.Len(t, got, len(written))
		release()
		file.close()
	}
	j.close()
	_, err := record(t, j, 1, 0, 1)
	require.ErrorIs(t, err, errNoRoom, "once it is closed")
}

// Whatever byte changes, of whatever slot: all records are there but the newest, which may be missing, or it is said that
// some are lost.
func TestJournalFlippedByte(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, smallRing)
	defer j.close()
	var written []journalRecord
	for i := range 5 {
		r, err := record(t, j, LayerID(i%2), uint64(i), 1+i)
		require.NoError(t, err)
		written = append(written, r)
	}
	whole := bytesOf(t, dir)
	p, lost, phase := make([]byte, len(whole)), 0, rand.IntN(17)
	for i := range whole {
		if i%blockSize > 400 && i%17 != phase || !oneIn(50) {
			continue // of what is all alike, another part each time
		}
		copy(p, whole)
		p[i] ^= 1 << (i % 8)
		got, err := parse(p)
		if err != nil {
			require.ErrorIs(t, err, errJournal)
			lost++
			continue
		}
		if !slices.EqualFunc(got, written, sameRecord) {
			requireRecords(t, written[:4], written, got)
		}
	}
	require.NotZero(t, lost)
	for i := range 2 * blockSize {
		if !oneIn(50) {
			continue
		}
		copy(p, whole)
		p[i] ^= 0xff
		got, err := parse(p)
		require.NoError(t, err, "one header is enough")
		require.Len(t, got, len(written))
	}
	p[0], p[blockSize] = 'x', 'x'
	_, err := parse(p)
	require.ErrorIs(t, err, errJournal)
}

// A lost record is told from one that nobody was promised.
func TestJournalGap(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 100)
	defer j.close()
	start := j.at
	for range 4 {
		_, err := record(t, j, 1, 0, 1)
		require.NoError(t, err)
	}
	p := bytesOf(t, dir)
	p[(start+2)*blockSize+20] ^= 1
	p[(start+5)*blockSize+20] ^= 1
	_, err := parse(p)
	var gap journalGap
	require.ErrorAs(t, err, &gap)
	require.Equal(t, journalGap{lost: []uint64{2, 3}, newest: 4, until: 5}, gap)
	require.NoError(t, os.WriteFile(filepath.Join(dir, journalName), p, 0o600))
	_, _, _, err = loadRing(dir, 3, true)
	require.ErrorAs(t, err, &gap)
	require.Equal(t, []uint64{3}, gap.lost)
	file, got, release, err := loadRing(dir, gap.until, true)
	require.NoError(t, err)
	defer file.close()
	defer release()
	require.Len(t, got, 2)
}

// Several are written at once, and a crash leaves a later one whole beside an earlier one that is torn.
func TestJournalTornBesideWhole(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 100)
	defer j.close()
	first, err := record(t, j, 1, 0, 2)
	require.NoError(t, err)
	torn := journalRecord{layer: 2, blocks: []uint64{1, 2, 3}}
	slot, err := j.begin(&torn)
	require.NoError(t, err)
	later, err := record(t, j, 3, 0, 1)
	require.NoError(t, err)
	p := bytesOf(t, dir)
	rec := make([]byte, 4*blockSize)
	j.file.seal(rec, &torn)
	copy(p[slot*blockSize:], rec[:3*blockSize])
	p[(slot+3)*blockSize] = 1
	got, err := parse(p)
	require.NoError(t, err)
	requireRecords(t, []journalRecord{first, later}, []journalRecord{first, later}, got)
	j.end(nil, &torn)
	_, err = record(t, j, 1, 0, 1)
	require.NoError(t, err)
	p = bytesOf(t, dir)
	_, err = parse(p)
	require.ErrorIs(t, err, errJournal, "now it had been promised")
}

// A guest that writes what looks like a record or a header is not believed.
func TestJournalForgedByAGuest(t *testing.T) {
	other := newRing(t, t.TempDir(), smallRing)
	defer other.close()
	forged := make([]byte, 2*blockSize)
	other.file.generation = 1 << 40
	other.file.seal(forged, &journalRecord{number: 7, layer: 1, blocks: []uint64{0}})
	dir := t.TempDir()
	j := newRing(t, dir, smallRing)
	defer j.close()
	blocks := append(slices.Clone(forged), other.file.header()...)
	require.NoError(t, j.write(1, []uint64{1, 2, 3}, func(data []byte) error { copy(data, blocks); return nil }))
	got, err := parse(bytesOf(t, dir))
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, blocks, got[0].data)
}

// After renewing, and at any step of it, no record of before counts; before it, all do.
func TestJournalRenewedInPart(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, smallRing)
	defer j.close()
	_, err := record(t, j, 1, 0, 3)
	require.NoError(t, err)
	before := bytesOf(t, dir)
	require.NoError(t, j.file.renew(j.position()))
	after := bytesOf(t, dir)
	require.Equal(t, after[:blockSize], after[blockSize:2*blockSize])
	for cut := 0; cut <= 2*blockSize; cut++ {
		if !oneIn(50) {
			continue
		}
		p := append(slices.Clone(after[:cut]), before[cut:]...)
		got, err := parse(p)
		require.NoError(t, err, "cut off at byte %d", cut)
		if cut >= blockSize {
			require.Empty(t, got)
		}
	}
	f, _, release, err := loadRing(dir, 0, true)
	require.NoError(t, err)
	defer release()
	defer f.close()
	require.EqualValues(t, 2, f.first)
}

// What lies in its place and is none, is refused as damage.
func TestJournalOfAnotherShape(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, journalName)
	_, _, _, err := loadRing(dir, 0, true)
	require.ErrorIs(t, err, unix.ENOENT)
	for what, put := range map[string]func() error{
		"an empty file":   func() error { return os.WriteFile(path, nil, 0o600) },
		"a short file":    func() error { return os.WriteFile(path, make([]byte, 5*blockSize), 0o600) },
		"a file of zeros": func() error { return os.WriteFile(path, make([]byte, 200*blockSize), 0o600) },
		"half a block":    func() error { return os.WriteFile(path, make([]byte, 200*blockSize+2048), 0o600) },
		"a directory":     func() error { return os.Mkdir(path, 0o700) },
		"a link":          func() error { return os.Symlink("elsewhere", path) },
		"a named pipe":    func() error { return unix.Mkfifo(path, 0o600) },
		"a file of 8 GiB": func() error { return errorOf(os.WriteFile(path, nil, 0o600), os.Truncate(path, 8<<30)) },
		"a truncated record": func() error {
			j := newRing(t, dir, 100)
			defer j.close()
			return os.Truncate(path, 50*blockSize+1)
		},
	} {
		require.NoError(t, put())
		_, _, _, err := loadRing(dir, 0, true)
		require.ErrorIs(t, err, errJournal, what)
		require.NoError(t, os.RemoveAll(path))
	}
}

// Many records, of which ever fewer are needed, in a ring that wraps, and a crash while one is being written: those that
// are needed are read, whatever part of it reached the disk.
func TestJournalTornWhereItWraps(t *testing.T) {
	base := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(base, fmt.Sprint(run))
		require.NoError(t, os.Mkdir(dir, 0o700))
		j := newRing(t, dir, rapid.SampledFrom([]int{smallRing, 50, 64}).Draw(t, "slots"))
		defer j.close()
		var written []journalRecord
		committed := make(map[LayerID]uint64)
		needed := func() (all []journalRecord) {
			for _, r := range written {
				if r.number >= committed[r.layer] {
					all = append(all, r)
				}
			}
			return all
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				l := rapid.SampledFrom([]LayerID{1, 2, 3}).Draw(t, "layer")
				n := rapid.SampledFrom([]int{1, 1, 2, 5, 20, journalBlocks}).Draw(t, "blocks")
				before, want := bytesOf(t, dir), needed()
				r, err := record(t, j, l, 0, n)
				if err != nil {
					require.ErrorIs(t, err, errNoRoom)
					return
				}
				written = append(written, r)
				torn := slices.Clone(before)
				for off, after := 0, bytesOf(t, dir); off < len(after); off += 512 {
					if !bytes.Equal(before[off:off+512], after[off:off+512]) && rapid.Bool().Draw(t, "reached the disk") {
						copy(torn[off:off+512], after[off:])
					}
				}
				got, err := parse(torn)
				require.NoError(t, err)
				requireRecords(t, want, written, got)
			},
			"commit": func(t *rapid.T) {
				l := rapid.SampledFrom([]LayerID{1, 2, 3}).Draw(t, "layer")
				committed[l] = j.position()
				j.settle(l, committed[l])
			},
			"": func(t *rapid.T) {
				got, err := parse(bytesOf(t, dir))
				require.NoError(t, err)
				requireRecords(t, needed(), written, got)
			},
		})
	})
}
