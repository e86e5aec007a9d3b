package layer

// Whom it strikes that the journal is lost, as far as can be known. A guest's flush that is in the journal, and not in the index
// yet, is at most some seconds old; its blocks are in the data file of the file's head as well, as far as that survived. So it is
// files whose head was written to shortly before the end; where its data file holds blocks that the index does not know, those
// are what is lost for sure if the guest had flushed them, and else nothing that anybody was promised.

import (
	"fmt"
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

// losers are those of a lost journal, by name.
func (o *offline) losers() (all []loser, err error) {
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
		found, err := o.loserIn(l, data, f.Size)
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

// loserIn looks which blocks a head's data file has, and the index does not know.
func (o *offline) loserIn(l *layer, data *os.File, size int64) (found loser, err error) {
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
	regions := make([]uint64, 0, len(held))
	for region := range held {
		regions = append(regions, region)
	}
	slices.Sort(regions)
	for _, region := range regions {
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

// finding says what it may be that a file has lost.
func (l loser) finding() Finding {
	text := "was written to at " + l.written.UTC().Format(time.RFC3339) + ", shortly before the end"
	if l.blocks == 0 {
		return Finding{l.name, text + ": all blocks that its guest had flushed are there; if the host went down, and not only snapfs, some of them may be as they were before"}
	}
	return Finding{l.name, fmt.Sprintf("%s: of what its guest had flushed then, up to %s is lost, bytes %s; check its file system",
		text, bytesText(l.blocks*blockSize), rangesText(l.ranges))}
}
