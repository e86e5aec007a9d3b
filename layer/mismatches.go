package layer

// What a scrub finds in a layer: blocks that are not what their checksums say, joined where the same files and snapshots read them.

import (
	"fmt"
	"math"
	"strings"
)

// maxAllReaders is for how many blocks all who read them are named; of more, it is the first. A layer may be read by thousands.
const maxAllReaders = 1000

func (r *ScrubReport) mostReaders() int {
	if r.mismatched >= maxAllReaders {
		return 1
	}
	return math.MaxInt
}

// mismatches are those of one layer.
type mismatches struct {
	layer *layer
	by    map[string]*mismatched
	all   []*mismatched // in the order of their first blocks
}

// mismatched are blocks that are read by the same ones.
type mismatched struct {
	readers []string
	ranges  [][2]int64 // of blocks, from the first of a pair up to the second
}

// add adds a block, each behind the one before it, unless nobody reads it; it returns how many it added.
func (m *mismatches) add(block uint64, readers []string) int {
	if len(readers) == 0 {
		return 0
	}
	key, b := strings.Join(readers, "\n"), int64(block)
	at := m.by[key]
	if at == nil {
		at = &mismatched{readers: readers}
		m.by[key], m.all = at, append(m.all, at)
	}
	if n := len(at.ranges); n > 0 && at.ranges[n-1][1] == b {
		at.ranges[n-1][1]++
	} else {
		at.ranges = append(at.ranges, [2]int64{b, b + 1})
	}
	return 1
}

func (m *mismatches) findings() (all []Finding) {
	for _, at := range m.all {
		text := mismatchText(m.layer, at.ranges)
		if others := at.readers[1:]; len(others) > 0 {
			text += "; also read by " + namesText(others)
		}
		f := Finding{Object: at.readers[0], Text: text, Readers: at.readers}
		for _, r := range at.ranges {
			f.Ranges = append(f.Ranges, [2]int64{r[0] * blockSize, r[1] * blockSize})
		}
		all = append(all, f)
	}
	return all
}

// namesText names the first few of many.
func namesText(names []string) string {
	const most = 3
	text := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
