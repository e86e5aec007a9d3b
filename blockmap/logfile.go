package blockmap

// This file reads the log of a memtable, as Badger does when it opens: a run of commits, which ends where the next one
// can't be read.
//
//	header 20 bytes | entry | entry …
//	entry: meta | user meta | length of key, of value, expiry (varints) | key | value | crc32c, 4 bytes, of all that

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"strconv"
)

const (
	logHeader   = 20
	maxLogKey   = 1 << 16
	entryInTxn  = 1 << 6 // of meta: part of a transaction
	entryEndTxn = 1 << 7 // of meta: its end; the value is its version, in decimal
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// plainLog says whether the header of a log is that of one without encryption: it begins with the key's number, 8 bytes.
func plainLog(data []byte) bool {
	return len(data) < logHeader || binary.BigEndian.Uint64(data) == 0
}

// logScan is what a log has.
type logScan struct {
	first, last uint64 // the versions of its commits; 0: it has none
	end         int    // where the last of them ends, in bytes
	identity    []byte // of the index that they are of; nil: they have no mark
}

// scanLog reads a log up to the last commit that is whole.
func scanLog(data []byte) (s logScan) {
	if len(data) < logHeader {
		return s
	}
	s.end = logHeader
	var identity []byte
	for at := logHeader; ; {
		meta, key, value, size := cutEntry(data[at:])
		switch {
		case size == 0, meta&(entryInTxn|entryEndTxn) == 0:
			return s
		case meta&entryEndTxn != 0:
			version, err := strconv.ParseUint(string(value), 10, 64)
			if err != nil {
				return s
			}
			s.first = cmp.Or(s.first, version)
			if s.identity == nil {
				s.identity = identity
			}
			s.last, s.end = version, at+size
		case len(key) == len(markKey)+8 && key[0] == markKey[0] && len(value) == markSize: // the version is behind the key
			identity = value[:16]
		}
		at += size
	}
}

// cutEntry reads the entry that data begins with; size is 0 if that can't be read.
func cutEntry(data []byte) (meta byte, key, value []byte, size int) {
	if len(data) < 2 {
		return 0, nil, nil, 0
	}
	at := 2
	var lengths [3]uint64
	for i := range lengths {
		n, size := binary.Uvarint(data[at:])
		if size <= 0 {
			return 0, nil, nil, 0
		}
		lengths[i], at = n, at+size
	}
	left := uint64(len(data) - at)
	if lengths[0] > maxLogKey || lengths[0]+4 > left || lengths[1] > left-lengths[0]-4 {
		return 0, nil, nil, 0
	}
	from := at + int(lengths[0])
	end := from + int(lengths[1])
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return 0, nil, nil, 0
	}
	return data[0], data[at:from], data[from:end], end + 4
}
