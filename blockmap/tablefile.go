package blockmap

// This file verifies a table of Badger's, whole. Badger itself takes a damaged block for the end of its table, and dies of
// some others.
//
//	blocks | index | its length, 4 bytes | checksum of the index | its length, 4 bytes      big endian
//	block: entries | checksum of them | its length, 4 bytes

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// verifyTable returns the newest version in a table.
func verifyTable(data []byte) (newest uint64, err error) {
	defer func() {
		if p := recover(); p != nil { // the index's format has no bounds of its own
			newest, err = 0, fmt.Errorf("index: it is none: %v", p)
		}
	}()
	rest, sum, err := cutTail(data)
	if err != nil {
		return 0, fmt.Errorf("end: %w", err)
	}
	rest, index, err := cutTail(rest)
	if err != nil {
		return 0, fmt.Errorf("end: %w", err)
	}
	if err := verifySum(index, sum); err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	list := fb.GetRootAsTableIndex(index, 0)
	var at fb.BlockOffset
	for i := range list.OffsetsLength() {
		if !list.Offsets(&at, i) || uint64(at.Offset())+uint64(at.Len()) > uint64(len(rest)) {
			return 0, fmt.Errorf("block %d lies outside", i)
		}
		block, sum, err := cutTail(rest[at.Offset() : at.Offset()+at.Len()])
		if err == nil {
			err = verifySum(block, sum)
		}
		if err != nil {
			return 0, fmt.Errorf("block %d: %w", i, err)
		}
	}
	return list.MaxVersion(), nil
}

// cutTail takes what its length follows off the end.
func cutTail(data []byte) (rest, tail []byte, err error) {
	n := len(data) - 4
	if n < 0 {
		return nil, nil, errCutOff
	}
	size := binary.BigEndian.Uint32(data[n:])
	if uint64(size) > uint64(n) {
		return nil, nil, errCutOff
	}
	return data[:n-int(size)], data[n-int(size) : n], nil
}

func verifySum(data, sum []byte) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return err
	}
	if want.Algo != pb.Checksum_CRC32C && want.Algo != pb.Checksum_XXHash64 {
		return fmt.Errorf("unknown kind of checksum %d", want.Algo)
	}
	if y.CalculateChecksum(data, want.Algo) != want.Sum {
		return errSum
	}
	return nil
}
