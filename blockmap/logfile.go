package blockmap

// This file reads the log of a memtable, as Badger does when it opens: a run of commits, which ends where the next one
// can't be read.
//
//	header 20 bytes | entry | entry …
//	entry: meta | user meta | length of key, of value, expiry (varints) | key | value | crc32c, 4 bytes, of all that

import (
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

// scanLog returns the versions of the first and last commit in a log; 0 if it has none.
func scanLog(data []byte) (first, last uint64) {
	if len(data) < logHeader {
		return 0, 0
	}
	for data = data[logHeader:]; ; {
		meta, value, rest, ok := cutEntry(data)
		switch {
		case !ok, meta&(entryInTxn|entryEndTxn) == 0:
			return first, last
		case meta&entryEndTxn != 0:
			version, err := strconv.ParseUint(string(value), 10, 64)
			if err != nil {
				return first, last
			}
			if first == 0 {
				first = version
			}
			last = version
		}
		data = rest
	}
}

// cutEntry takes an entry off the front.
func cutEntry(data []byte) (meta byte, value, rest []byte, ok bool) {
	if len(data) < 2 {
		return 0, nil, nil, false
	}
	at := 2
	var lengths [3]uint64
	for i := range lengths {
		n, size := binary.Uvarint(data[at:])
		if size <= 0 {
			return 0, nil, nil, false
		}
		lengths[i], at = n, at+size
	}
	left := uint64(len(data) - at)
	if lengths[0] > maxLogKey || lengths[0]+4 > left || lengths[1] > left-lengths[0]-4 {
		return 0, nil, nil, false
	}
	from := at + int(lengths[0])
	end := from + int(lengths[1])
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return 0, nil, nil, false
	}
	return data[0], data[from:end], data[end+4:], true
}
