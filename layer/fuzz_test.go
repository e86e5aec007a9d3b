package layer

// Reading the catalog, whatever is in it: no panic, and what is accepted is written again as it was read.

import (
	"encoding/json"
	"testing"

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
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 {
			return
		}
		switch key[0] {
		case tableMeta:
			again[storeRecord](t, key, value)
		case tableVM:
			again[vmRecord](t, key, value)
		case tableFile:
			again[fileRecord](t, key, value)
		case tableLineage:
			again[lineageRecord](t, key, value)
		case tableLayer:
			again[layerRecord](t, key, value)
		case tableSnapshot:
			again[snapshotRecord](t, key, value)
		case tablePrepared:
			again[preparedRecord](t, key, value)
		case tablePunch:
			if p, err := decodePunch(key, value); err == nil {
				require.Equal(t, key[:17], regionKey(tablePunch, p.layer, p.region))
			}
		}
	})
}

// again decodes a record, encodes it and decodes that.
func again[R any](t *testing.T, key, value []byte) {
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
