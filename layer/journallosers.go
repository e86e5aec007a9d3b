package layer

// Whom it strikes that the journal is lost, as far as can be known. A guest's flush that is in the journal, and not in the index
// yet, is at most some seconds old; its blocks are in the data file of the file's head as well, as far as that survived. So it is
// files whose head was written to shortly before the end; where its data file holds blocks that the index does not know, those
// are what is lost for sure if the guest had flushed them, and else nothing that anybody was promised. What was written over
// blocks that the index knows is in the data file if the host went on, and may be lost, wherever it was, if the host went down.

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/snapfs/snapfs/blockmap"
)

// loser is a file that may have lost something.
type loser struct {
	name    string
	written time.Time
	blocks  int64
	ranges  [][2]int64 // bytes, the second one behind the last
}

// losers are those of a journal of which only some records are left, by name.
func (o *offline) losers(left []journalRecord) (all []loser, err error) {
	var last time.Time
	for _, f := range o.catalog.files {
		l := o.tree.layer(f.Head)
		if f.Unlinked || l == nil {
			continue
		}
		data, err := o.openData(l.id)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue // nothing was ever written to it
		}
		found, err := o.loserIn(l, data, f.Size, left)
		_ = data.Close()
		if err != nil {
			return nil, err
		}
		found.name = o.catalog.vms[f.VM].Name + "/" + f.Name
		if all = append(all, found); found.written.After(last) {
			last = found.written
		}
	}
	all = slices.DeleteFunc(all, func(l loser) bool { return l.written.Before(last.Add(-unsure)) })
	slices.SortFunc(all, func(a, b loser) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// loserIn looks which blocks a head's data file has, and neither the index nor what is left of the journal knows.
func (o *offline) loserIn(l *layer, data *os.File, size int64, left []journalRecord) (found loser, err error) {
	info, err := data.Stat()
	if err != nil {
		return found, err
	}
	found.written = info.ModTime()
	held, _, err := heldIn(data, l.void)
	if err != nil {
		return found, err
	}
	err = o.records(l, func(region uint64, r *blockmap.Record) error {
		if fresh := held[region]; fresh != nil {
			fresh.AndNot(&r.Data)
		}
		return nil
	})
	for _, r := range left {
		for _, b := range r.blocks {
			if blocks := held[b/blockmap.RegionBlocks]; r.layer == l.id && blocks != nil {
				blocks.ClearRange(int(b%blockmap.RegionBlocks), int(b%blockmap.RegionBlocks)+1)
			}
		}
	}
	for _, region := range slices.Sorted(maps.Keys(held)) {
		held[region].Runs(func(from, to int) {
			base := int64(region) * blockmap.RegionSize
			found.add(base+int64(from)*blockSize, min(base+int64(to)*blockSize, (size+blockSize-1)&^(blockSize-1)))
		})
	}
	return found, err
}

func (l *loser) add(from, to int64) {
	if from >= to {
		return // behind the end of the file
	}
	l.blocks += (to - from) / blockSize
	if n := len(l.ranges); n > 0 && l.ranges[n-1][1] == from {
		l.ranges[n-1][1] = to
		return
	}
	l.ranges = append(l.ranges, [2]int64{from, to})
}

// finding says what a file has lost, or may have; where is where that is which is known. What overwrote blocks that the index
// knows is lost without a trace, unless the host went on: then the data file has it.
func (l loser) finding(where string, wentOn bool) Finding {
	text := "was written to at " + l.written.UTC().Format(time.RFC3339) + ", shortly before the end: "
	known := fmt.Sprintf("up to %s %s: bytes %s", bytesText(l.blocks*blockSize), where, rangesText(l.ranges))
	switch {
	case wentOn:
		text += "of what its guest had flushed then, " + known
	case l.blocks == 0:
		text += "anything that its guest had flushed in the last seconds before may be lost"
	default:
		text += "anything that its guest had flushed in the last seconds before may be lost; what is known is that of it " + known
	}
	return Finding{Object: l.name, Text: text, Ranges: l.ranges}
}

// loserFindings are those of all losers. Where the host went on, who has none of the ranges has lost nothing.
func (o *offline) loserFindings(left []journalRecord, where string) (all []Finding, err error) {
	wentOn := o.hostWentOn()
	losers, err := o.losers(left)
	for _, l := range losers {
		if l.blocks > 0 || !wentOn {
			all = append(all, l.finding(where, wentOn))
		}
	}
	return all, err
}

// noteLosers names those of a journal that can't be read as a whole.
func (k *check) noteLosers() error {
	if k.tree == nil {
		return nil
	}
	found, err := k.loserFindings(nil, "is in the journal alone")
	k.Notes = append(k.Notes, found...)
	return err
}

func (m *mender) tellLosers(left []journalRecord) error {
	found, err := m.loserFindings(left, "is lost, so that its file system is to be checked")
	m.lost = append(m.lost, found...)
	return err
}
