package layer

// The journal's records: what each looks like, which of them are there, and whether one is missing that was promised.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// journalRecord is one of the ring: blocks of a layer, as they were when a guest had flushed them.
type journalRecord struct {
	number uint64 // counts from 1, without a gap
	layer  LayerID
	tail   uint64 // records before it were not needed any more
	synced uint64 // records from tail up to, not including, this one were on disk
	blocks []uint64
	data   []byte
	at     int // the slot where it was found
}

// journalGap is damage to some of its records, the others being sound.
type journalGap struct {
	lost   []uint64 // their numbers
	newest uint64   // that of the last one that is sound; 0: none is
	until  uint64   // none of them is lost from this number on
}

func (g journalGap) Error() string {
	text := fmt.Sprintf("%v: of its records, %d cannot be read, the first being number %d", errJournal, len(g.lost), g.lost[0])
	if last := g.lost[len(g.lost)-1]; last > g.newest {
		text += fmt.Sprintf("; it went to number %d at least, and is damaged at its end, or an older copy", last)
	}
	return text
}

func (g journalGap) Unwrap() error { return errJournal }

// seal fills in the first slot of p, in which the blocks' data follow.
func (j *journalFile) seal(p []byte, r *journalRecord) {
	h := append(p[:0:blockSize], j.key[:]...)
	for _, v := range []uint64{r.number, uint64(r.layer), r.tail, r.synced, uint64(len(r.blocks))} {
		h = binary.LittleEndian.AppendUint64(h, v)
	}
	h = append(h, 0, 0, 0, 0, 0, 0, 0, 0) // the checksum's place
	for _, b := range r.blocks {
		h = binary.LittleEndian.AppendUint64(h, b)
	}
	clear(p[len(h):blockSize])
	binary.LittleEndian.PutUint32(p[journalFixed-8:], crc32.Checksum(p, castagnoli))
}

// find returns the sound records, by number.
func (j *journalFile) find(mem []byte) []journalRecord {
	var found []journalRecord
	for i := journalHeaders; i < j.slots; i++ {
		if r, ok := j.record(mem[i*blockSize:]); ok {
			r.at = i
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b journalRecord) int { return int(int64(a.number - b.number)) })
	return found
}

// record is the one that p begins with, if that is sound.
func (j *journalFile) record(p []byte) (r journalRecord, ok bool) {
	if !bytes.Equal(p[:16], j.key[:]) {
		return r, false
	}
	u := func(at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }
	r = journalRecord{number: u(16), layer: LayerID(u(24)), tail: u(32), synced: u(40)}
	n := u(48)
	if n > journalBlocks || (1+int(n))*blockSize > len(p) {
		return r, false
	}
	p = p[:(1+n)*blockSize]
	sum := binary.LittleEndian.Uint32(p[journalFixed-8:])
	binary.LittleEndian.PutUint32(p[journalFixed-8:], 0)
	if crc32.Checksum(p, castagnoli) != sum {
		return r, false
	}
	for k := range int(n) {
		r.blocks = append(r.blocks, u(journalFixed+8*k))
	}
	r.data = p[blockSize:]
	return r, true
}

// whole refuses records of which one is missing that was on disk and needed when the newest was written, or the mark. What
// was being written beside that may be missing: nobody was promised it. A gap before number known is known.
func (j *journalFile) whole(records []journalRecord, mark *journalMark, known uint64) error {
	have := make(map[uint64]bool, len(records))
	for _, r := range records {
		have[r.number] = true
	}
	gap := journalGap{until: j.next}
	if len(records) > 0 {
		newest := records[len(records)-1]
		gap.newest, known = newest.number, max(known, newest.tail)
		for n := known; n < newest.synced; n++ {
			if !have[n] {
				gap.lost = append(gap.lost, n)
			}
		}
	}
	gap.lost = append(gap.lost, mark.missing(j.generation, have, known)...)
	slices.Sort(gap.lost)
	if gap.lost = slices.Compact(gap.lost); len(gap.lost) > 0 {
		return gap
	}
	return nil
}
