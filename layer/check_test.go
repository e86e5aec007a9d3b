package layer

// Damage of every kind: check finds it, and opening refuses it or gets by, but never dies of it.

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

// sample makes a store with two files, snapshots of them, and a branch, and closes it.
func sample(t *testing.T) (dir string) {
	t.Helper()
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	makeFile(t, v, "data", blockSize)
	write(t, f, blocksOf(1, 4), 0)
	snapshot(t, v, "s")
	write(t, f, blocksOf(2, 2), blockSize)
	require.NoError(t, f.Discard(0, blockSize))
	snapshot(t, v, "t")
	revertTo(t, v, RevertOptions{Name: "s"})
	write(t, f, blocksOf(3, 1), 7*blockSize)
	require.NoError(t, s.Close())
	return s.dir
}

// firstKey is the first key of a table, with its value.
func firstKey(t *testing.T, tx *blockmap.Tx, table byte) (key, value []byte) {
	t.Helper()
	err := tx.Scan([]byte{table}, func(k, v []byte) error {
		if key == nil {
			key, value = append([]byte{}, k...), append([]byte{}, v...)
		}
		return nil
	})
	require.NoError(t, err)
	require.NotNil(t, key)
	return key, value
}

func TestCheckOfASoundStore(t *testing.T) {
	dir := sample(t)
	report, err := Check(dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.Equal(t, 1, report.VMs)
	require.Equal(t, 2, report.Files)
	require.Equal(t, 3, report.Snapshots)
	require.Equal(t, 8, report.Layers)
	require.EqualValues(t, 7*blockSize, report.Bytes)
	require.EqualValues(t, 3, report.Records)
}

// catalogDamage is what may be wrong with a catalog, by name.
func catalogDamage() map[string]func(*testing.T, *blockmap.Tx) {
	remove := func(table byte) func(*testing.T, *blockmap.Tx) {
		return func(t *testing.T, tx *blockmap.Tx) {
			key, _ := firstKey(t, tx, table)
			tx.Delete(key)
		}
	}
	return map[string]func(t *testing.T, tx *blockmap.Tx){
		"a missing VM":      remove(tableVM),
		"a missing lineage": remove(tableLineage),
		"a missing layer":   remove(tableLayer),
		"a damaged record": func(t *testing.T, tx *blockmap.Tx) {
			key, _ := firstKey(t, tx, tableLayer)
			tx.Put(key, []byte(`{"lineage":`))
		},
		"two files with one head": func(t *testing.T, tx *blockmap.Tx) {
			key, value := firstKey(t, tx, tableFile)
			other, err := decode[fileRecord](key, value)
			require.NoError(t, err)
			other.Name = "twin"
			put(tx, catalogKey(tableFile, FileID(3)), other)
		},
		"two files with one name": func(t *testing.T, tx *blockmap.Tx) {
			err := scan(tx, tableFile, func(id uint64, r fileRecord) error {
				r.Name = "same"
				put(tx, catalogKey(tableFile, id), r)
				return nil
			})
			require.NoError(t, err)
		},
		"a head that a snapshot has": func(t *testing.T, tx *blockmap.Tx) {
			_, value := firstKey(t, tx, tableSnapshot)
			n, err := decode[snapshotRecord]([]byte{tableSnapshot}, value)
			require.NoError(t, err)
			key, _ := firstKey(t, tx, tableFile)
			require.NoError(t, edit(tx, key, func(r *fileRecord) { r.Head = n.Files[0].Layer }))
		},
		"a parent that is no snapshot": func(t *testing.T, tx *blockmap.Tx) {
			key, _ := firstKey(t, tx, tableSnapshot)
			require.NoError(t, edit(tx, key, func(r *snapshotRecord) { r.Parent = 1 }))
		},
		"an id from the future": func(t *testing.T, tx *blockmap.Tx) {
			require.NoError(t, edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.Next = 2 }))
		},
		"blocks without a data file": func(t *testing.T, tx *blockmap.Tx) {
			err := scan(tx, tableLayer, func(id uint64, r layerRecord) error {
				r.HasFile = false
				put(tx, catalogKey(tableLayer, id), r)
				return nil
			})
			require.NoError(t, err)
		},
		"a block over a hole": func(t *testing.T, tx *blockmap.Tx) {
			id, lin := layerWithBlocks(t, tx)
			r, err := tx.Record(lin, 0, id)
			require.NoError(t, err)
			r.Data.Set(900)
			tx.PutRecord(lin, 0, id, &r)
		},
		"a record that is not listed": func(t *testing.T, tx *blockmap.Tx) {
			id, lin := layerWithBlocks(t, tx)
			r := blockmap.Record{}
			r.Zero.Set(5)
			tx.PutRecord(lin, 77, id, &r)
		},
		"a record of no layer": func(t *testing.T, tx *blockmap.Tx) {
			_, lin := layerWithBlocks(t, tx)
			r := blockmap.Record{}
			r.Zero.Set(5)
			tx.PutRecord(lin, 0, 1<<40, &r)
		},
	}
}

func TestCheckFinds(t *testing.T) {
	for name, spoil := range catalogDamage() {
		if !oneIn(6) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := sample(t)
			index, err := blockmap.Open(filepath.Join(dir, indexName), blockmap.Options{})
			require.NoError(t, err)
			err = index.Update(func(tx *blockmap.Tx) error {
				spoil(t, tx)
				return nil
			})
			require.NoError(t, err)
			require.NoError(t, index.Close())

			report, err := Check(dir)
			require.NoError(t, err)
			require.NotEmpty(t, report.Findings)
			for _, f := range report.Findings {
				require.NotEmpty(t, f.Object)
				require.NotContains(t, f.Text, "\n")
			}
			if s, err := Open(dir, Options{}); err != nil {
				require.Equal(t, unix.EIO, Errno(err), "%v", err)
				require.NotContains(t, err.Error(), "\n")
			} else {
				settle(t, s)
				require.NoError(t, s.Close())
			}
		})
	}
}

// layerWithBlocks finds a layer that holds something.
func layerWithBlocks(t *testing.T, tx *blockmap.Tx) (id LayerID, lin lineageID) {
	t.Helper()
	err := scan(tx, tableLayer, func(found uint64, r layerRecord) error {
		if r.Blocks > 0 && id == 0 {
			id, lin = LayerID(found), r.Lineage
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, id)
	return id, lin
}

func TestCheckRefusesWhatIsNoStore(t *testing.T) {
	_, err := Check(t.TempDir())
	require.ErrorIs(t, err, unix.ENOENT)
	missing := filepath.Join(t.TempDir(), "missing")
	_, err = Check(missing)
	require.ErrorIs(t, err, unix.ENOENT)
	_, err = os.Stat(missing)
	require.ErrorIs(t, err, os.ErrNotExist, "check makes nothing")
	strange := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(strange, "x"), nil, 0o600))
	_, err = Check(strange)
	require.ErrorIs(t, err, unix.EINVAL)
}
