package blockmap

// This file holds a region's uncommitted changes as they are kept: a disk of 1 TiB that is written all over has 262,144 regions, with
// a few blocks changed in each.

// fewChanges is how many blocks are listed one by one: what fits where bitmaps would take 384 bytes.
const fewChanges = 7

// sparse is a Delta. The zero value changes nothing.
type sparse struct {
	all   *Delta // nil: the listed ones are all
	few   [fewChanges]uint16
	count uint8
}

// set is Delta.Set.
func (s *sparse) set(k Kind, from, to int) {
	if s.all == nil && to-from <= fewChanges && s.list(k, from, to) {
		return
	}
	if s.all == nil {
		all := s.delta()
		s.all = &all
	}
	s.all.Set(k, from, to)
}

// list lists blocks, if there is room for them.
func (s *sparse) list(k Kind, from, to int) bool {
	next := *s
	for b := from; b < to; b++ {
		i := next.find(b)
		if i == fewChanges {
			return false
		}
		next.few[i] = uint16(b)<<2 | uint16(k)
		next.count = max(next.count, uint8(i+1))
	}
	*s = next
	return true
}

// find is where a block is listed, or would be.
func (s *sparse) find(block int) int {
	for i, entry := range s.few[:s.count] {
		if int(entry>>2) == block {
			return i
		}
	}
	return int(s.count)
}

// delta is a copy.
func (s *sparse) delta() (d Delta) {
	if s.all != nil {
		return *s.all
	}
	for _, entry := range s.few[:s.count] {
		b := int(entry >> 2)
		d.Set(Kind(entry&3), b, b+1)
	}
	return d
}

// over is Delta.Over.
func (s *sparse) over(older *sparse) {
	if s.all != nil || older.all != nil {
		sum, below := s.delta(), older.delta()
		sum.Over(&below)
		*s = sparse{all: &sum}
		return
	}
	sum := *older
	for _, entry := range s.few[:s.count] {
		sum.set(Kind(entry&3), int(entry>>2), int(entry>>2)+1)
	}
	*s = sum
}

// forget leaves out the blocks from one on.
func (s *sparse) forget(from int) {
	if s.all != nil {
		for _, b := range []*Bitmap{&s.all.Data, &s.all.Zero, &s.all.None} {
			b.ClearRange(from, RegionBlocks)
		}
		return
	}
	left := sparse{}
	for _, entry := range s.few[:s.count] {
		if int(entry>>2) < from {
			left.few[left.count] = entry
			left.count++
		}
	}
	*s = left
}

func (s *sparse) empty() bool {
	if s.all != nil {
		return s.all.Empty()
	}
	return s.count == 0
}
