package blockmap

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestTx runs random transactions, some of which fail, against a map: what a fn and later a View read must be what was written.
func TestTx(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		root := fmt.Sprintf("test %d/", runs) // all runs share one index
		committed := map[string]string{}
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			current := maps.Clone(committed)
			base := x.readVersion(x.committed)
			group := new(pending)
			for range rapid.IntRange(1, 3).Draw(t, "members") {
				tx := &Tx{base: base, group: group, own: new(pending)}
				next := maps.Clone(current)
				for range rapid.IntRange(0, 6).Draw(t, "operations") {
					operate(t, tx, root, next)
				}
				if rapid.Bool().Draw(t, "succeeds") {
					group.merge(tx.own)
					current = next
				}
			}
			base.Discard()
			require.NoError(t, x.write(group))
			committed = current
			require.NoError(t, x.View(func(tx *Tx) error {
				checkScan(t, tx, root, "", committed)
				return nil
			}))
		}
	})
}

// operate does one random operation on the transaction and on the model of what it should see.
func operate(t *rapid.T, tx *Tx, root string, model map[string]string) {
	key := rapid.StringMatching(`[ab]{1,3}`).Draw(t, "key")
	switch rapid.IntRange(0, 3).Draw(t, "operation") {
	case 0:
		value := rapid.StringMatching(`[x-z]{0,2}`).Draw(t, "value")
		tx.Put([]byte(root+key), []byte(value))
		model[root+key] = value
	case 1:
		tx.Delete([]byte(root + key))
		delete(model, root+key)
	case 2:
		value, err := tx.Get([]byte(root + key))
		require.NoError(t, err)
		want, ok := model[root+key]
		require.Equal(t, ok, value != nil, "present, even if empty")
		require.Equal(t, want, string(value))
	case 3:
		checkScan(t, tx, root, key[:1], model)
	}
}

func checkScan(t *rapid.T, tx *Tx, root, prefix string, model map[string]string) {
	var got []string
	require.NoError(t, tx.Scan([]byte(root+prefix), func(key, value []byte) error {
		got = append(got, string(key)+"="+string(value))
		return nil
	}))
	var want []string
	for _, key := range slices.Sorted(maps.Keys(model)) {
		if strings.HasPrefix(key, root+prefix) {
			want = append(want, key+"="+model[key])
		}
	}
	require.Equal(t, want, got)
}

// A scan shows things as they were when it began; its fn may write, and scan again.
func TestTxScanWhileWriting(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	put(t, x, "a1", "old")
	put(t, x, "a3", "old")
	var seen []string
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.Put([]byte("a2"), []byte("new"))
		return tx.Scan([]byte("a"), func(key, _ []byte) error {
			seen = append(seen, string(key))
			tx.Delete([]byte("a1"))
			tx.Delete([]byte("a2"))
			tx.Put([]byte("a4"), nil)
			inner := 0
			err := tx.Scan([]byte("a"), func(_, _ []byte) error { inner++; return nil })
			require.Equal(t, 2, inner)
			return err
		})
	}))
	require.Equal(t, []string{"a1", "a2", "a3"}, seen)
}

func TestTxErrorEndsScan(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	put(t, x, "a1", "")
	put(t, x, "a2", "")
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.Put([]byte("a0"), nil)
		tx.Put([]byte("a9"), nil)
		for stop := range 4 {
			n := 0
			err := tx.Scan([]byte("a"), func(_, _ []byte) error {
				if n++; n > stop {
					return ErrTooLarge
				}
				return nil
			})
			require.ErrorIs(t, err, ErrTooLarge)
			require.Equal(t, stop+1, n)
		}
		return nil
	}))
}

// Values handed in and out are copies.
func TestTxCopies(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.Update(func(tx *Tx) error {
		key, value := []byte("key"), []byte("value")
		tx.Put(key, value)
		key[0], value[0] = '?', '?'
		got, err := tx.Get([]byte("key"))
		require.Equal(t, "value", string(got))
		got[0] = '!'
		return err
	}))
	require.Equal(t, "value", string(get(t, x, "key")))
}

func TestTxMisuse(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.View(func(tx *Tx) error {
		require.Zero(t, tx.Size())
		require.Panics(t, func() { tx.Put([]byte("a"), nil) })
		require.Panics(t, func() { tx.Delete([]byte("a")) })
		require.Panics(t, func() { tx.PutRecord(1, 1, 1, &Record{}) })
		return nil
	}))
	tx := &Tx{own: new(pending)}
	require.Panics(t, func() { tx.Put(nil, nil) })
	require.Panics(t, func() { tx.Put([]byte("record"), nil) })
	require.Panics(t, func() { tx.Delete([]byte("r")) })
	require.Panics(t, func() { tx.Put([]byte("!badger!x"), nil) })
	require.Panics(t, func() { tx.Put(make([]byte, 5000), nil) })
}

func TestTxSize(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.Update(func(tx *Tx) error {
		require.Zero(t, tx.Size())
		tx.Put([]byte("a"), make([]byte, 1000))
		require.Greater(t, tx.Size(), 1000)
		require.Less(t, tx.Size(), 1500)
		return nil
	}))
}

func run(from, to int) (b Bitmap) {
	b.SetRange(from, to)
	return b
}

func TestTxRecords(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	all := []string{"1/9", "1/5", "1/2", "3/7", "3/2", "256/9"}
	type place struct {
		region uint64
		id     LayerID
	}
	write := func(places ...place) {
		require.NoError(t, x.Update(func(tx *Tx) error {
			for _, p := range places {
				tx.PutRecord(7, p.region, p.id, &Record{Data: run(0, int(p.id))})
			}
			return nil
		}))
	}
	check := func(tx *Tx) error {
		var got []string
		require.NoError(t, tx.Records(7, func(region uint64, id LayerID, r *Record) error {
			require.Equal(t, int(id), r.Data.Count())
			got = append(got, fmt.Sprintf("%d/%d", region, id))
			return nil
		}))
		require.Equal(t, all, got)

		var ids []LayerID
		require.NoError(t, tx.RegionRecords(7, 1, 8, func(id LayerID, r *Record) bool {
			require.Equal(t, int(id), r.Data.Count())
			ids = append(ids, id)
			return true
		}))
		require.Equal(t, []LayerID{5, 2}, ids, "from the top asked for")
		n := 0
		require.NoError(t, tx.RegionRecords(7, 1, 9, func(LayerID, *Record) bool { n++; return false }))
		require.Equal(t, 1, n, "no more than asked for")
		return nil
	}
	// Neighbours that must not show.
	require.NoError(t, x.Update(func(tx *Tx) error {
		for _, l := range []LineageID{6, 8} {
			tx.PutRecord(l, 1, 1, &Record{Zero: run(0, 1)})
		}
		return nil
	}))
	write(place{1, 2}, place{1, 5}, place{3, 7}, place{3, 6})
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.PutRecord(7, 1, 9, &Record{Data: run(0, 9)})
		tx.PutRecord(7, 3, 2, &Record{Data: run(0, 2)})
		tx.PutRecord(7, 256, 9, &Record{Data: run(0, 9)})
		tx.PutRecord(7, 3, 6, &Record{}) // an empty one goes
		return check(tx)
	}))
	require.NoError(t, x.View(check))
}

func TestTxRecordDamaged(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.put(recordKey(nil, 1, 2, 3), []byte{0xff})
		return nil
	}))
	require.NoError(t, x.View(func(tx *Tx) error {
		_, err := tx.Record(1, 2, 3)
		require.ErrorIs(t, err, ErrRecord)
		require.ErrorContains(t, err, "region 2 of layer 3")
		return nil
	}))
	require.ErrorIs(t, x.Resolve(&Chain{Segments: []Segment{{1, 3}}}, 2, nil, new(Owners)), ErrRecord)

	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.put(append(recordKey(nil, 4, 2, 3), 'x'), []byte{1})
		return nil
	}))
	require.NoError(t, x.View(func(tx *Tx) error {
		require.ErrorIs(t, tx.Records(4, func(uint64, LayerID, *Record) error { return nil }), ErrRecord)
		return nil
	}))
}
