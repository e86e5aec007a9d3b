package blockmap

// This file holds Bitmap: which blocks of one region have some property.

import "math/bits"

// Sizes of the units everything in a store is measured in.
const (
	BlockSize    = 4096                     // bytes: the unit of copy-on-write
	RegionBlocks = 1024                     // blocks: the unit of a record and of loading a map
	RegionSize   = BlockSize * RegionBlocks // bytes
)

const bitmapWords = RegionBlocks / 64

// Bitmap has one bit for each block of a region. The zero value is empty.
type Bitmap [bitmapWords]uint64

// Has tells whether bit i is set.
func (b *Bitmap) Has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }

// Set sets bit i.
func (b *Bitmap) Set(i int) { b[i>>6] |= 1 << (i & 63) }

// Clear clears bit i.
func (b *Bitmap) Clear(i int) { b[i>>6] &^= 1 << (i & 63) }

// SetRange sets the bits from up to, not including, to.
func (b *Bitmap) SetRange(from, to int) {
	for from < to {
		w, m, next := span(from, to)
		b[w] |= m
		from = next
	}
}

// ClearRange clears the bits from up to, not including, to.
func (b *Bitmap) ClearRange(from, to int) {
	for from < to {
		w, m, next := span(from, to)
		b[w] &^= m
		from = next
	}
}

// span returns the word that holds bit from, the mask of the bits of it within [from, to), and where the next word begins.
func span(from, to int) (word int, mask uint64, next int) {
	word = from >> 6
	next = (word + 1) << 6
	mask = ^uint64(0) << (from & 63)
	if to < next {
		mask &= 1<<(to&63) - 1
	}
	return word, mask, next
}

// Or adds the bits of o.
func (b *Bitmap) Or(o *Bitmap) {
	for i := range b {
		b[i] |= o[i]
	}
}

// And keeps only the bits that o has too.
func (b *Bitmap) And(o *Bitmap) {
	for i := range b {
		b[i] &= o[i]
	}
}

// AndNot removes the bits of o.
func (b *Bitmap) AndNot(o *Bitmap) {
	for i := range b {
		b[i] &^= o[i]
	}
}

// Not inverts every bit.
func (b *Bitmap) Not() {
	for i := range b {
		b[i] = ^b[i]
	}
}

// Empty tells whether no bit is set.
func (b *Bitmap) Empty() bool { return *b == Bitmap{} }

// Full tells whether every bit is set.
func (b *Bitmap) Full() bool {
	for _, w := range b {
		if w != ^uint64(0) {
			return false
		}
	}
	return true
}

// Intersects tells whether some bit is set in both.
func (b *Bitmap) Intersects(o *Bitmap) bool {
	for i := range b {
		if b[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// Count returns how many bits are set.
func (b *Bitmap) Count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// Next returns the first set bit at or after from, or RegionBlocks if there is none.
func (b *Bitmap) Next(from int) int { return b.next(from, 0) }

// NextClear returns the first clear bit at or after from, or RegionBlocks if there is none.
func (b *Bitmap) NextClear(from int) int { return b.next(from, ^uint64(0)) }

// next is Next on the bitmap with every word xored with flip.
func (b *Bitmap) next(from int, flip uint64) int {
	if from >= RegionBlocks {
		return RegionBlocks
	}
	mask := ^uint64(0) << (from & 63)
	for i := from >> 6; i < bitmapWords; i++ {
		if w := (b[i] ^ flip) & mask; w != 0 {
			return i<<6 + bits.TrailingZeros64(w)
		}
		mask = ^uint64(0)
	}
	return RegionBlocks
}

// Runs calls fn for each maximal run [from, to) of set bits, in ascending order.
func (b *Bitmap) Runs(fn func(from, to int)) {
	for from := b.Next(0); from < RegionBlocks; {
		to := b.NextClear(from)
		fn(from, to)
		from = b.Next(to)
	}
}
