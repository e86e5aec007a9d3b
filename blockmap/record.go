package blockmap

// This file holds Record, what one layer says of one region, and its bytes:
//
//	tag    1 byte: bits 0–1 kind of data, bits 2–3 kind of zero, bits 4–7 are 0
//	data   128 bytes, if its kind is raw: 16 words of 64 bits, little endian, block i is bit i%64 of word i/64
//	zero   128 bytes, if its kind is raw
//
// A kind is 0 empty, 1 full, 2 raw. Raw is used only for what is neither empty nor full, so a record has exactly one
// encoding and whatever else is found was damaged.

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrRecord says that the bytes of a record were never written by this package.
var ErrRecord = errors.New("damaged record")

// Record is what one layer says of one region. The two bitmaps are disjoint; where neither has a bit, the layer below answers.
type Record struct {
	Data Bitmap // the layer's file holds the block
	Zero Bitmap // the block reads as zeros from here down
}

// Empty tells whether the layer says nothing of the region.
func (r *Record) Empty() bool { return r.Data.Empty() && r.Zero.Empty() }

// Covered returns the blocks the layer decides: nothing below it shows there.
func (r *Record) Covered() Bitmap {
	c := r.Data
	c.Or(&r.Zero)
	return c
}

const (
	kindEmpty = 0
	kindFull  = 1
	kindRaw   = 2

	kindMask    = 3
	zeroShift   = 2
	tagUnused   = 0xf0
	bitmapBytes = RegionBlocks / 8
)

// AppendBinary appends the bytes of the record to p. It never fails.
func (r *Record) AppendBinary(p []byte) ([]byte, error) {
	data, zero := kindOf(&r.Data), kindOf(&r.Zero)
	p = append(p, data|zero<<zeroShift)
	if data == kindRaw {
		p = appendBitmap(p, &r.Data)
	}
	if zero == kindRaw {
		p = appendBitmap(p, &r.Zero)
	}
	return p, nil
}

// MarshalBinary returns the bytes of the record. It never fails.
func (r *Record) MarshalBinary() ([]byte, error) {
	return r.AppendBinary(make([]byte, 0, 1+2*bitmapBytes))
}

// UnmarshalBinary reads what AppendBinary wrote, and all of it; anything else is an ErrRecord and leaves r undefined.
func (r *Record) UnmarshalBinary(p []byte) error {
	if len(p) == 0 || p[0]&tagUnused != 0 {
		return fmt.Errorf("%w: bad tag", ErrRecord)
	}
	tag, p := p[0], p[1:]
	p, err := readBitmap(p, tag&kindMask, &r.Data)
	if err != nil {
		return err
	}
	if p, err = readBitmap(p, tag>>zeroShift, &r.Zero); err != nil {
		return err
	}
	if len(p) != 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrRecord, len(p))
	}
	if r.Data.Intersects(&r.Zero) {
		return fmt.Errorf("%w: a block is both data and zero", ErrRecord)
	}
	return nil
}

func kindOf(b *Bitmap) byte {
	switch {
	case b.Empty():
		return kindEmpty
	case b.Full():
		return kindFull
	}
	return kindRaw
}

func appendBitmap(p []byte, b *Bitmap) []byte {
	for _, w := range b {
		p = binary.LittleEndian.AppendUint64(p, w)
	}
	return p
}

// readBitmap fills b from the head of p and returns what follows.
func readBitmap(p []byte, kind byte, b *Bitmap) ([]byte, error) {
	switch kind {
	case kindEmpty:
		*b = Bitmap{}
		return p, nil
	case kindFull:
		b.SetRange(0, RegionBlocks)
		return p, nil
	case kindRaw:
		return readRaw(p, b)
	}
	return nil, fmt.Errorf("%w: unknown kind of bitmap %d", ErrRecord, kind)
}

func readRaw(p []byte, b *Bitmap) ([]byte, error) {
	if len(p) < bitmapBytes {
		return nil, fmt.Errorf("%w: %d bytes of a bitmap of %d", ErrRecord, len(p), bitmapBytes)
	}
	for i := range b {
		b[i] = binary.LittleEndian.Uint64(p[8*i:])
	}
	if kindOf(b) != kindRaw {
		return nil, fmt.Errorf("%w: empty or full bitmap written raw", ErrRecord)
	}
	return p[bitmapBytes:], nil
}
