package blockmap

// This file reads and writes records within a transaction.

import (
	"errors"
	"fmt"
)

// errStop ends a scan early; it never leaves this package.
var errStop = errors.New("stop")

// Record returns what layer id of lineage l says of a region; empty if it never touched it.
func (t *Tx) Record(l LineageID, region uint64, id LayerID) (Record, error) {
	var r Record
	value, err := t.Get(recordKey(nil, l, region, id))
	if err != nil || value == nil {
		return r, err
	}
	if err := r.UnmarshalBinary(value); err != nil {
		return Record{}, recordError(err, region, id)
	}
	return r, nil
}

// PutRecord sets what layer id of lineage l says of a region. An empty record is removed.
func (t *Tx) PutRecord(l LineageID, region uint64, id LayerID, r *Record) {
	key := recordKey(nil, l, region, id)
	if r.Empty() {
		t.put(key, nil)
		return
	}
	value, _ := r.MarshalBinary() // never fails
	t.put(key, value)
}

// Records calls fn for every record of a lineage, by region, newest layer first. fn may write, but must not keep r.
func (t *Tx) Records(l LineageID, fn func(region uint64, id LayerID, r *Record) error) error {
	prefix := lineageKey(nil, l)
	return t.scanRecords(prefix, prefix, fn)
}

// RegionRecords calls fn for the records of one region of a lineage, newest first, from layer top down, as long as it asks
// for more. fn must not keep r.
func (t *Tx) RegionRecords(l LineageID, region uint64, top LayerID, fn func(id LayerID, r *Record) (more bool)) error {
	from := recordKey(make([]byte, 0, recordKeyLen), l, region, top)
	err := t.scanRecords(from[:regionKeyLen], from, func(_ uint64, id LayerID, r *Record) error {
		if fn(id, r) {
			return nil
		}
		return errStop
	})
	if err == errStop {
		return nil
	}
	return err
}

func (t *Tx) scanRecords(prefix, from []byte, fn func(region uint64, id LayerID, r *Record) error) error {
	var r Record
	return t.scan(prefix, from, func(key, value []byte) error {
		region, id, err := parseRecordKey(key)
		if err != nil {
			return err
		}
		if err := r.UnmarshalBinary(value); err != nil {
			return recordError(err, region, id)
		}
		return fn(region, id, &r)
	})
}

func recordError(err error, region uint64, id LayerID) error {
	return fmt.Errorf("region %d of layer %d: %w", region, id, err)
}
