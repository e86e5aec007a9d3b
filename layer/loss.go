package layer

// Losses: what blocks that layers have lost mean to whom: which ranges of which files and snapshots are gone.

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/snapfs/snapfs/blockmap"
)

// reader is a state of a file that somebody can read: the present one, or a snapshot's.
type reader struct {
	vm       VMID
	snapshot SnapshotID // 0: the present state
	file     FileID
	name     string // VM/FILE or VM@SNAPSHOT/FILE
	layer    LayerID
	size     int64
}

// loss is what a reader has lost: ranges of bytes, in order.
type loss struct {
	reader
	ranges [][2]int64
}

// readers are all of a store, by name. What a preview left behind goes by what undo would bring back.
func (o *offline) readers() (all []reader) {
	c := o.catalog
	for id, f := range c.files {
		if !f.Unlinked {
			all = append(all, reader{vm: f.VM, file: id, name: c.vms[f.VM].Name + "/" + f.Name, layer: f.Head, size: f.Size})
		}
	}
	for id, n := range c.snapshots {
		for _, e := range n.Files {
			name := fmt.Sprintf("%s@%s/%s", c.vms[n.VM].Name, n.Name, e.Name)
			if n.Hidden {
				name = fmt.Sprintf("%s/%s as `undo` would bring it back", c.vms[n.VM].Name, e.Name)
			}
			all = append(all, reader{vm: n.VM, snapshot: id, file: e.File, name: name, layer: e.Layer, size: e.Size})
		}
	}
	slices.SortFunc(all, func(a, b reader) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.layer, b.layer)) })
	return all
}

// losses are those of all readers, by what is noted of layers.
func (o *offline) losses() (all []loss, err error) {
	if len(o.catalog.lost) == 0 {
		return nil, nil
	}
	for _, r := range o.readers() {
		ranges, err := o.lossOf(r)
		if err != nil {
			return nil, err
		}
		if len(ranges) > 0 {
			all = append(all, loss{r, ranges})
		}
	}
	return all, nil
}

func (o *offline) lossOf(r reader) (ranges [][2]int64, err error) {
	top := o.tree.layer(r.layer)
	if top == nil {
		return nil, nil
	}
	regions := make(map[uint64]bool)
	for l := top; l != nil; l = o.tree.belowLocked(l) {
		for region := range l.lost {
			regions[region] = true
		}
	}
	if len(regions) == 0 {
		return nil, nil
	}
	chain := o.tree.chain(top)
	var owners blockmap.Owners
	for region := range regions {
		if err := o.index.Resolve(chain, region, nil, &owners); err != nil {
			return nil, err
		}
		for i, owner := range owners {
			at := int64(region)*blockmap.RegionSize + int64(i)*blockSize
			if owner == 0 || at >= r.size {
				continue
			}
			if lost := o.catalog.lost[owner][region]; lost != nil && lost.Has(i) {
				ranges = append(ranges, [2]int64{at, min(at+blockSize, r.size)})
			}
		}
	}
	return joined(ranges), nil
}

// joined sorts ranges and makes one of those that touch.
func joined(ranges [][2]int64) (all [][2]int64) {
	slices.SortFunc(ranges, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	for _, r := range ranges {
		if n := len(all); n > 0 && all[n-1][1] == r[0] {
			all[n-1][1] = r[1]
		} else {
			all = append(all, r)
		}
	}
	return all
}

// maxRanges are as many as are told.
const maxRanges = 8

func (l loss) bytes() (sum int64) {
	for _, r := range l.ranges {
		sum += r[1] - r[0]
	}
	return sum
}

// finding says what is gone.
func (l loss) finding() Finding {
	var b strings.Builder
	fmt.Fprintf(&b, "has lost %s: bytes ", bytesText(l.bytes()))
	b.WriteString(rangesText(l.ranges))
	b.WriteString("; to read them is EIO")
	if l.snapshot == 0 {
		b.WriteString(" until they are written anew")
	}
	return Finding{Object: l.name, Text: b.String(), Ranges: l.ranges}
}

// rangesText names ranges of bytes, the first few of many.
func rangesText(ranges [][2]int64) string {
	var texts []string
	for _, r := range ranges[:min(maxRanges, len(ranges))] {
		text := strconv.FormatInt(r[0], 10)
		if r[1]-1 > r[0] {
			text += "-" + strconv.FormatInt(r[1]-1, 10)
		}
		texts = append(texts, text)
	}
	text := strings.Join(texts, ", ")
	if more := len(ranges) - maxRanges; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string { return strings.ReplaceAll(humanize.IBytes(uint64(n)), " ", "") }
