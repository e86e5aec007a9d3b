package blockmap

// This file holds Delta: what changed in one region of one layer and is not in the index yet.

// Kind is what a layer says of a block.
type Kind uint8

// The kinds of a block in a layer.
const (
	KindNone Kind = iota // nothing: the layer below answers
	KindData             // the layer's file holds it
	KindZero             // it reads as zeros from here down
)

// Delta is a change of a Record: the blocks that became data, zero or nothing. The three are disjoint; what is in none of
// them stays as it was.
type Delta struct {
	Data, Zero, None Bitmap
}

// Set notes that the blocks from up to, not including, to are now of kind k.
func (d *Delta) Set(k Kind, from, to int) {
	d.Data.ClearRange(from, to)
	d.Zero.ClearRange(from, to)
	d.None.ClearRange(from, to)
	switch k {
	case KindNone:
		d.None.SetRange(from, to)
	case KindData:
		d.Data.SetRange(from, to)
	case KindZero:
		d.Zero.SetRange(from, to)
	default:
		panic("blockmap: unknown kind of block")
	}
}

// Apply makes r say what it says after the change.
func (d *Delta) Apply(r *Record) {
	for i := range d.Data {
		data, zero, none := d.Data[i], d.Zero[i], d.None[i]
		r.Data[i] = r.Data[i]&^(zero|none) | data
		r.Zero[i] = r.Zero[i]&^(data|none) | zero
	}
}

// Over makes d the change that older and then d make together.
func (d *Delta) Over(older *Delta) {
	for i := range d.Data {
		free := ^(d.Data[i] | d.Zero[i] | d.None[i])
		d.Data[i] |= older.Data[i] & free
		d.Zero[i] |= older.Zero[i] & free
		d.None[i] |= older.None[i] & free
	}
}

// Empty tells whether nothing changes.
func (d *Delta) Empty() bool {
	return d.Data.Empty() && d.Zero.Empty() && d.None.Empty()
}
