package blockmap

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawRecord draws a record, the empty one included.
func drawRecord(t *rapid.T, label string) Record {
	r := Record{Data: drawBitmap(t, label+" data"), Zero: drawBitmap(t, label+" zero")}
	if rapid.Bool().Draw(t, label+" data first") {
		r.Zero.AndNot(&r.Data)
	} else {
		r.Data.AndNot(&r.Zero)
	}
	return r
}

// The bytes are a promise to every store ever made: this table must never change.
func TestRecordBytes(t *testing.T) {
	full := Bitmap{}
	full.SetRange(0, RegionBlocks)
	some := Bitmap{}
	some.SetRange(0, 9)
	some.Set(RegionBlocks - 1)
	raw := make([]byte, 128)
	raw[0], raw[1], raw[127] = 0xff, 0x01, 0x80
	rest := full
	rest.AndNot(&some)

	for name, c := range map[string]struct {
		record Record
		head   byte
		tail   []byte
	}{
		"empty":     {Record{}, 0x00, nil},
		"all data":  {Record{Data: full}, 0x01, nil},
		"some data": {Record{Data: some}, 0x02, raw},
		"all zero":  {Record{Zero: full}, 0x04, nil},
		"some zero": {Record{Zero: some}, 0x08, raw},
	} {
		p, err := c.record.MarshalBinary()
		require.NoError(t, err, name)
		require.Equal(t, append([]byte{c.head}, c.tail...), p, name)
	}
	both := Record{Data: some, Zero: rest}
	p, err := both.MarshalBinary()
	require.NoError(t, err)
	require.Len(t, p, 1+2*128)
	require.Equal(t, byte(0x0a), p[0])
	require.Equal(t, raw, p[1:129], "data comes first")
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t, "record")
		p, err := r.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before", string(p[:6]))
		got := drawRecord(t, "previous content")
		require.NoError(t, got.UnmarshalBinary(p[6:]))
		require.Equal(t, r, got)
	})
}

func TestRecordDamaged(t *testing.T) {
	raw := bytes.Repeat([]byte{0x55}, 128)
	join := func(tag byte, parts ...[]byte) []byte {
		return append([]byte{tag}, bytes.Join(parts, nil)...)
	}
	for name, p := range map[string][]byte{
		"nothing":                nil,
		"unknown bits":           {0x10},
		"unknown kind of data":   {0x03},
		"unknown kind of zero":   {0x0c},
		"both full":              {0x05},
		"too short":              join(0x02, raw[:127]),
		"second too short":       join(0x0a, raw, raw[:100]),
		"too long":               join(0x02, raw, raw[:1]),
		"something after a full": {0x01, 0},
		"overlap":                join(0x0a, raw, raw),
		"full over raw":          join(0x09, raw),
		"empty written raw":      join(0x02, make([]byte, 128)),
		"full written raw":       join(0x08, bytes.Repeat([]byte{0xff}, 128)),
	} {
		var r Record
		require.ErrorIs(t, r.UnmarshalBinary(p), ErrRecord, name)
	}
}

func TestRecordCovered(t *testing.T) {
	var r Record
	require.True(t, r.Empty())
	r.Data.SetRange(0, 10)
	r.Zero.SetRange(10, 20)
	require.False(t, r.Empty())
	covered := r.Covered()
	require.Equal(t, 20, covered.Count())
	require.Equal(t, 10, r.Data.Count(), "the record itself is left alone")
}

// FuzzRecord: whatever the bytes are, decoding does not panic, and what it accepts is exactly what encoding makes.
func FuzzRecord(f *testing.F) {
	f.Add([]byte{0x01})
	f.Add(append([]byte{0x02}, bytes.Repeat([]byte{0x0f}, 128)...))
	f.Add(append([]byte{0x0a}, append(bytes.Repeat([]byte{0x0f}, 128), bytes.Repeat([]byte{0xf0}, 128)...)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		var r Record
		if err := r.UnmarshalBinary(p); err != nil {
			require.ErrorIs(t, err, ErrRecord)
			return
		}
		require.False(t, r.Data.Intersects(&r.Zero))
		again, err := r.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
