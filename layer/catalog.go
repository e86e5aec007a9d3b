package layer

// The catalog: what the index holds beside the layers' blocks. Each record is JSON under a key of one letter and big
// endian ids; docs/format.md lists them. Reading an unknown member is no error, so that members can be added.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/snapfs/snapfs/blockmap"
)

type lineageID = blockmap.LineageID

// The tables of the catalog: a key's first byte.
const (
	tableMeta     = 'm' // storeRecord
	tableVM       = 'v' // VM → vmRecord
	tableFile     = 'f' // file → fileRecord
	tableLineage  = 'n' // lineage → lineageRecord
	tableLayer    = 'l' // layer → layerRecord
	tableSnapshot = 's' // snapshot → snapshotRecord
	tablePrepared = 'o' // VM → preparedRecord: heads that are being made
	tableTouched  = 't' // layer, region → nothing: the regions in which a layer has a record
	tablePunch    = 'p' // layer, region → bitmap of blocks to punch out
	tablePolicy   = 'q' // VM → the policy's document
	tableGrowth   = 'g' // VM → growthRecord
	tableUnlink   = 'u' // layer → nothing: a data file to remove
	tableImage    = 'i' // image → imageRecord
	tableMachine  = 'd' // snapshot → what its machine's monitor told, JSON
	tableDone     = 'w' // request → doneRecord
	tableLost     = 'b' // layer, region → bitmap of blocks that the data file has lost
)

type storeRecord struct {
	ID   string `json:"id"`   // the store's identity, hex
	Next uint64 `json:"next"` // no id at or above it was ever given out

	Restored  int64 `json:"restored,omitempty"`  // when the index was last made of a backup, ns since 1970
	Restoring bool  `json:"restoring,omitempty"` // that is not done yet
	// Untold is what that went back to, ns since 1970, as long as nobody was told what is gone for it.
	Untold int64 `json:"untold,omitempty"`

	Journal    string `json:"journal,omitempty"`    // the journal's identity, hex; empty: there is none
	JournalGap uint64 `json:"journalGap,omitempty"` // that its records before this one are not all there is known
	// JournalMark says that it has a mark: that of a version without has none.
	JournalMark bool `json:"journalMark,omitempty"`
	JournalKept bool `json:"journalKept,omitempty"` // some of its records are in journal.kept
	// Lost is what a repair could not save, for the next start to log.
	Lost []Finding `json:"lost,omitempty"`
}

type attrRecord struct {
	Mode  uint32 `json:"mode"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Mtime int64  `json:"mtime"` // ns since 1970
}

type vmRecord struct {
	Name string     `json:"name"`
	Attr attrRecord `json:"attr"`
	Head SnapshotID `json:"head,omitempty"` // the snapshot that the current state grew from
	// While Head is previewed: the hidden snapshot of what undo brings back.
	Preview SnapshotID `json:"preview,omitempty"`
}

type fileRecord struct {
	VM        VMID       `json:"vm"`
	Name      string     `json:"name"`
	Attr      attrRecord `json:"attr"`
	Size      int64      `json:"size"`      // bytes
	Allocated int64      `json:"allocated"` // blocks that read as data
	Head      LayerID    `json:"head"`
	Unlinked  bool       `json:"unlinked,omitempty"` // no name leads to it, but it is open
}

type lineageRecord struct {
	Parent lineageID `json:"parent,omitempty"` // 0: grew from nothing
	Branch LayerID   `json:"branch,omitempty"` // layers of Parent up to this one lie below
	Into   bool      `json:"into,omitempty"`   // it is being merged into Parent: some of its records are there
}

type layerRecord struct {
	Lineage lineageID `json:"lineage"`
	File    FileID    `json:"file"`
	Created int64     `json:"created"`           // ns since 1970
	Blocks  int64     `json:"blocks,omitempty"`  // blocks of data it holds
	HasFile bool      `json:"data,omitempty"`    // it has a data file
	Summed  bool      `json:"summed,omitempty"`  // its blocks have checksums
	Cut     *uint64   `json:"cut,omitempty"`     // from this block up nothing below shows
	Void    *uint64   `json:"void,omitempty"`    // from this block up its own do not count either; not below Cut
	Log     *logMark  `json:"log,omitempty"`     // how much of a session's log it has
	Journal uint64    `json:"journal,omitempty"` // it has its records of the journal before this one
}

// logMark is a position in the log of a VM in a session: records before it, of the layer that has it, are in the index.
type logMark struct {
	Session uint64 `json:"s"`
	At      uint64 `json:"n"`
}

type entryRecord struct {
	File      FileID     `json:"file"`
	Name      string     `json:"name"`
	Layer     LayerID    `json:"layer"`
	Attr      attrRecord `json:"attr"`
	Size      int64      `json:"size"`
	Allocated int64      `json:"allocated"`
}

type snapshotRecord struct {
	VM          VMID          `json:"vm"`
	Name        string        `json:"name"`
	Parent      SnapshotID    `json:"parent,omitempty"`
	Created     int64         `json:"created"` // ns since 1970
	Consistency string        `json:"consistency"`
	Description string        `json:"description,omitempty"`
	Warning     string        `json:"warning,omitempty"`
	Undo        bool          `json:"undo,omitempty"`     // kept by a revert or commit, thinned by policy
	Hidden      bool          `json:"hidden,omitempty"`   // what a preview left behind
	Auto        bool          `json:"auto,omitempty"`     // made by the policy's schedule, thinned by it
	Excluded    []string      `json:"excluded,omitempty"` // files that it left out, by name
	ExcludedIDs []FileID      `json:"excludedFiles,omitempty"`
	Memory      imageID       `json:"memory,omitempty"`  // of the machine
	Running     *bool         `json:"running,omitempty"` // the machine ran, as far as its monitor told
	Files       []entryRecord `json:"files"`             // by name
}

// preparedRecord names the heads of an operation that is under way. A start that finds one takes them away again; a
// worker that takes over and finds the heads of a snapshot in use goes on with it.
type preparedRecord struct {
	Layers   []LayerID       `json:"layers"`
	Lineages []lineageID     `json:"lineages,omitempty"`
	ID       SnapshotID      `json:"id,omitempty"`
	Snapshot *snapshotRecord `json:"snapshot,omitempty"`
	By       *Request        `json:"by,omitempty"` // who asked for the snapshot
}

func catalogKey[ID ~uint64](table byte, ids ...ID) []byte {
	key := make([]byte, 1, 1+8*len(ids))
	key[0] = table
	for _, id := range ids {
		key = binary.BigEndian.AppendUint64(key, uint64(id))
	}
	return key
}

// regionKey is a key of the tables that are kept by layer and region.
func regionKey(table byte, id LayerID, region uint64) []byte {
	return catalogKey(table, uint64(id), region)
}

// keyID is the n-th id of a key.
func keyID(key []byte, n int) (uint64, error) {
	if len(key) < 1+8*(n+1) {
		return 0, fmt.Errorf("index key %x is too short", key)
	}
	return binary.BigEndian.Uint64(key[1+8*n:]), nil
}

func put(tx *blockmap.Tx, key []byte, record any) {
	var value bytes.Buffer
	e := json.NewEncoder(&value)
	e.SetEscapeHTML(false) // it would make names six times as long
	if err := e.Encode(record); err != nil {
		panic(err) // records are plain data
	}
	tx.Put(key, value.Bytes())
}

func decode[R any](key, value []byte) (R, error) {
	var record R
	if err := json.Unmarshal(value, &record); err != nil {
		return record, fmt.Errorf("index record %c %x is damaged: %w", key[0], key[1:], err)
	}
	return record, nil
}

// edit changes a record that is there. Transactions run one after another, so that two who edit different members of
// one record do not undo each other's work.
func edit[R any](tx *blockmap.Tx, key []byte, change func(*R)) error {
	value, err := tx.Get(key)
	if err != nil {
		return err
	}
	if value == nil {
		return fmt.Errorf("index record %c %x is missing", key[0], key[1:])
	}
	record, err := decode[R](key, value)
	if err != nil {
		return err
	}
	change(&record)
	put(tx, key, record)
	return nil
}

// editIfThere is edit for a record that may be gone, or was never there: an unlinked file's, or its layer's.
func editIfThere[R any](tx *blockmap.Tx, key []byte, change func(*R)) error {
	if value, err := tx.Get(key); err != nil || value == nil {
		return err
	}
	return edit(tx, key, change)
}

// scan decodes a whole table, with each record's first id.
func scan[R any](tx *blockmap.Tx, table byte, fn func(id uint64, record R) error) error {
	return tx.Scan([]byte{table}, func(key, value []byte) error {
		id, err := keyID(key, 0)
		if err != nil {
			return err
		}
		record, err := decode[R](key, value)
		if err != nil {
			return err
		}
		return fn(id, record)
	})
}
