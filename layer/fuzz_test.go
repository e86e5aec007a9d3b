package layer

// Reading the catalog, whatever is in it: no panic, and what is accepted is written again as it was read. Likewise memory
// images.

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

func FuzzCatalog(f *testing.F) {
	cut := uint64(7)
	for _, seed := range []struct {
		table  byte
		record any
	}{
		{tableMeta, newStoreRecord()},
		{tableVM, vmRecord{Name: "web", Attr: attrRecord{Mode: 0o755}, Head: 3, Preview: 4}},
		{tableFile, fileRecord{VM: 1, Name: "root.img", Size: 1 << 40, Allocated: 12, Head: 9, Unlinked: true}},
		{tableLineage, lineageRecord{Parent: 2, Branch: 8, Into: true}},
		{tableLayer, layerRecord{Lineage: 2, File: 5, Created: 1, Blocks: 3, HasFile: true, Cut: &cut, Void: &cut}},
		{tableSnapshot, snapshotRecord{VM: 1, Name: "before", Files: []entryRecord{{File: 5, Name: "root.img", Layer: 9}}}},
		{tablePrepared, preparedRecord{Layers: []LayerID{1, 2}, Lineages: []lineageID{3}}},
		{tableGrowth, growthRecord{}},
		{tableImage, imageRecord{}},
		{tableDone, doneRecord{Session: 1, Handle: 4, Text: []byte("one"), Snapshot: 7, Name: "one", Kept: "x", VM: "web"}},
	} {
		value, err := json.Marshal(seed.record)
		require.NoError(f, err)
		f.Add(catalogKey(seed.table, uint64(1)), value)
	}
	var r blockmap.Record
	r.Data.SetRange(1, 99)
	value, err := r.MarshalBinary()
	require.NoError(f, err)
	f.Add(regionKey(tablePunch, 1, 2), value)
	again := map[byte]func(t *testing.T, key, value []byte){
		tableMeta: decodeAgain[storeRecord], tableVM: decodeAgain[vmRecord], tableFile: decodeAgain[fileRecord],
		tableLineage: decodeAgain[lineageRecord], tableLayer: decodeAgain[layerRecord], tableSnapshot: decodeAgain[snapshotRecord],
		tablePrepared: decodeAgain[preparedRecord], tableGrowth: decodeAgain[growthRecord], tableImage: decodeAgain[imageRecord],
		tableDone: decodeAgain[doneRecord],
		tablePunch: func(t *testing.T, key, value []byte) {
			if p, err := decodePunch(key, value); err == nil {
				require.Equal(t, key[:17], regionKey(tablePunch, p.layer, p.region))
			}
		},
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 {
			return
		}
		if test := again[key[0]]; test != nil {
			test(t, key, value)
		}
	})
}

// decodeAgain decodes a record, encodes it and decodes that.
func decodeAgain[R any](t *testing.T, key, value []byte) {
	t.Helper()
	_, idErr := keyID(key, 0)
	require.Equal(t, len(key) < 9, idErr != nil)
	record, err := decode[R](key, value)
	if err != nil {
		require.NotContains(t, err.Error(), "\n")
		return
	}
	same, err := decode[R](key, encoded(t, record))
	require.NoError(t, err)
	require.Equal(t, encoded(t, record), encoded(t, same))
}

func encoded(t *testing.T, record any) []byte {
	t.Helper()
	value, err := json.Marshal(record)
	require.NoError(t, err)
	return value
}

// FuzzPacked reads whatever bytes as a packed memory image: what was packed, or an error.
func FuzzPacked(f *testing.F) {
	memory := make([]byte, frameSize+5000)
	for i := range memory[:6000] {
		memory[i] = byte(i * i >> 3)
	}
	var packed bytes.Buffer
	enc, err := zstd.NewWriter(nil)
	require.NoError(f, err)
	w, err := seekable.NewWriter(&packed, enc)
	require.NoError(f, err)
	for from := 0; from < len(memory); from += frameSize {
		_, err := w.Write(memory[from:min(from+frameSize, len(memory))])
		require.NoError(f, err)
	}
	require.NoError(f, w.Close())
	f.Add(packed.Bytes(), len(memory))
	f.Add(packed.Bytes()[1:], len(memory))
	f.Add([]byte{}, 0)
	path := filepath.Join(f.TempDir(), "image")
	f.Fuzz(func(t *testing.T, packed []byte, size int) {
		require.NoError(t, os.WriteFile(path, packed, 0o600))
		source, err := openPacked(path, imageRecord{Bytes: int64(size)})
		if err != nil {
			return
		}
		defer source.Close()
		p := make([]byte, 10_000)
		for _, off := range []int64{0, 4096, frameSize - 10, int64(size) - 1} {
			if off < 0 {
				continue
			}
			n, err := source.ReadAt(p, off)
			require.LessOrEqual(t, n, len(p))
			if err == nil {
				require.Equal(t, len(p), n)
			}
		}
	})
}
