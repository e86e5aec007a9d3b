package blockmap

// This file holds Tx, the transaction handed to View and Update: keys and values, and scans over what is committed and what
// is only buffered.

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Tx is a transaction on the index. In an Update it sees, newest first, its own writes, those of the Updates before it in
// the same group, and what is committed. It is for one goroutine.
type Tx struct {
	base  *badger.Txn // what is committed, read-only
	group *pending    // nil in a View
	own   *pending    // nil in a View
}

// Get returns a copy of the value of key; nil if there is none.
func (t *Tx) Get(key []byte) ([]byte, error) {
	for _, p := range []*pending{t.own, t.group} {
		if p == nil {
			continue
		}
		if value, ok := p.values[string(key)]; ok {
			return bytes.Clone(value), nil
		}
	}
	item, err := t.base.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("index: get: %w", err)
	}
	value, err := item.ValueCopy([]byte{}) // not nil: an empty value is there, too
	if err != nil {
		return nil, fmt.Errorf("index: get: %w", err)
	}
	return value, nil
}

// Put sets the value of a catalog key, up to 1 MiB. The first byte of key must not be that of records ('r').
func (t *Tx) Put(key, value []byte) {
	checkCatalogKey(key)
	t.put(key, append([]byte{}, value...))
}

// Delete removes a catalog key, if it is there.
func (t *Tx) Delete(key []byte) {
	checkCatalogKey(key)
	t.put(key, nil)
}

// checkCatalogKey panics for keys that no caller may use: those of records and those Badger keeps for itself.
func checkCatalogKey(key []byte) {
	if len(key) == 0 || len(key) > 1024 || key[0] == recordPrefix || key[0] == '!' {
		panic(fmt.Sprintf("blockmap: bad catalog key %q", key))
	}
}

// put buffers a write; it keeps value.
func (t *Tx) put(key, value []byte) {
	if t.own == nil {
		panic("blockmap: write in a View")
	}
	t.own.put(string(key), value)
}

// Size returns how many bytes this fn has buffered so far, overhead included; compare it with Index.MaxTx.
func (t *Tx) Size() int {
	if t.own == nil {
		return 0
	}
	return t.own.size
}

// Scan calls fn for every key that begins with prefix, ascending, as things were when it began; fn may write. The slices are
// valid during the call only. An error of fn ends the scan and is returned.
func (t *Tx) Scan(prefix []byte, fn func(key, value []byte) error) error {
	return t.scan(prefix, prefix, fn)
}

// ScanFrom is Scan from a key on, which begins with prefix.
func (t *Tx) ScanFrom(prefix, from []byte, fn func(key, value []byte) error) error {
	return t.scan(prefix, from, fn)
}

// scan is Scan from a key on that begins with prefix.
func (t *Tx) scan(prefix, from []byte, fn func(key, value []byte) error) error {
	buffered := t.buffered(string(prefix), string(from))
	it := t.base.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	var key []byte
	visit := func(value []byte) error { return fn(key, value) }
	for it.Seek(from); it.Valid(); it.Next() {
		item := it.Item()
		key = item.Key()
		for len(buffered) > 0 && buffered[0].key < string(key) {
			if err := buffered[0].visit(fn); err != nil {
				return err
			}
			buffered = buffered[1:]
		}
		if len(buffered) > 0 && buffered[0].key == string(key) {
			continue // its turn comes before the next key
		}
		if err := item.Value(visit); err != nil {
			return err
		}
	}
	for _, e := range buffered {
		if err := e.visit(fn); err != nil {
			return err
		}
	}
	return nil
}

func (e *entry) visit(fn func(key, value []byte) error) error {
	if e.value == nil {
		return nil
	}
	return fn([]byte(e.key), e.value)
}

// buffered returns the uncommitted writes that a scan meets, ascending.
func (t *Tx) buffered(prefix, from string) []entry {
	if t.own == nil {
		return nil
	}
	keys := mergeSorted(t.group.keys(prefix, from), t.own.keys(prefix, from))
	if len(keys) == 0 {
		return nil
	}
	entries := make([]entry, len(keys))
	for i, key := range keys {
		value, ok := t.own.values[key]
		if !ok {
			value = t.group.values[key]
		}
		entries[i] = entry{key, value}
	}
	return entries
}
