package blockmap

// This file holds the keys of records in the index:
//
//	'r' | lineage, 8 bytes | region, 8 bytes | ^layer, 8 bytes      all big endian
//
// The layer is inverted, so that one ascending scan yields the records of a region newest first, and those of a lineage
// region by region; nothing that is not on the chain is touched, however many branches and clones there are.

import (
	"encoding/binary"
	"fmt"
)

const (
	recordPrefix = 'r'

	lineageKeyLen = 1 + 8
	regionKeyLen  = lineageKeyLen + 8
	recordKeyLen  = regionKeyLen + 8
)

// lineageKey appends to p what the keys of all records of a lineage begin with.
func lineageKey(p []byte, l LineageID) []byte {
	return binary.BigEndian.AppendUint64(append(p, recordPrefix), uint64(l))
}

// regionKey appends to p what the keys of all records of one region of a lineage begin with.
func regionKey(p []byte, l LineageID, region uint64) []byte {
	return binary.BigEndian.AppendUint64(lineageKey(p, l), region)
}

// recordKey appends the key of one record to p.
func recordKey(p []byte, l LineageID, region uint64, id LayerID) []byte {
	return binary.BigEndian.AppendUint64(regionKey(p, l, region), ^uint64(id))
}

// parseRecordKey reads the region and the layer from the key of a record.
func parseRecordKey(key []byte) (region uint64, id LayerID, err error) {
	if len(key) != recordKeyLen || key[0] != recordPrefix {
		return 0, 0, fmt.Errorf("%w: bad key %x", ErrRecord, key)
	}
	region = binary.BigEndian.Uint64(key[lineageKeyLen:])
	id = LayerID(^binary.BigEndian.Uint64(key[regionKeyLen:]))
	return region, id, nil
}
