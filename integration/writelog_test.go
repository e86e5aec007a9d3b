package integration

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// The log of a device's writes, as QEMU's blklogwrites driver and the kernel's
// dm-log-writes keep it: a superblock in the first sector, then for each request
// a sector that describes it and what it wrote. All numbers are little-endian.
const (
	writeLogMagic  = 0x6a736677736872
	writeLogSector = 512

	entryFlush   = 1 // the requests before are on the medium
	entryFUA     = 2 // this one is, once it is answered
	entryDiscard = 4 // nothing follows the sector that describes it
	entryMark    = 8
)

// logEntry is one request to the device.
type logEntry struct {
	at, size int64 // the bytes of the device that it wrote
	flags    uint64
	data     int64 // where in the log that is
	end      int64 // of the entry in the log
}

// writeLog reads such a log, while it grows.
type writeLog struct {
	f    *os.File
	next int64 // where the next entry begins
}

func openWriteLog(path string) (*writeLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &writeLog{f, writeLogSector}, nil
}

// checkSuper says whether what has been written is such a log.
func (l *writeLog) checkSuper() error {
	super := make([]byte, 28) // magic, version, number of entries, size of a sector
	if _, err := l.f.ReadAt(super, 0); err != nil {
		return err
	}
	magic, version, sector := binary.LittleEndian.Uint64(super), binary.LittleEndian.Uint64(super[8:]), binary.LittleEndian.Uint32(super[24:])
	if magic != writeLogMagic || version != 1 || sector != writeLogSector {
		return fmt.Errorf("not a write log: magic %#x, version %d, sectors of %d", magic, version, sector)
	}
	return nil
}

// size is how long the log is. An entry is written before its request is done, so
// all that was done when this is called is in it.
func (l *writeLog) size() (int64, error) {
	info, err := l.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// upTo returns the entries not read so far that end at a position or before it.
func (l *writeLog) upTo(position int64) (entries []logEntry, err error) {
	for head := make([]byte, 32); l.next+writeLogSector <= position; {
		if _, err := l.f.ReadAt(head, l.next); err != nil {
			return nil, err
		}
		e := logEntry{
			at:    int64(binary.LittleEndian.Uint64(head)) * writeLogSector,
			size:  int64(binary.LittleEndian.Uint64(head[8:])) * writeLogSector,
			flags: binary.LittleEndian.Uint64(head[16:]),
			data:  l.next + writeLogSector,
		}
		e.end = e.data
		if e.flags&entryDiscard == 0 {
			e.end += e.size
		}
		if e.end > position {
			break
		}
		if e.flags > entryFlush|entryFUA|entryDiscard|entryMark || e.size == 0 && e.flags&(entryFlush|entryMark) == 0 {
			return nil, fmt.Errorf("write log: no entry at %d", l.next)
		}
		entries = append(entries, e)
		l.next = e.end
	}
	return entries, nil
}

// content reads what an entry wrote; of a discard nothing is certain, and here
// it is zeros.
func (l *writeLog) content(e logEntry) ([]byte, error) {
	b := make([]byte, e.size)
	if e.flags&entryDiscard != 0 {
		return b, nil
	}
	_, err := io.ReadFull(io.NewSectionReader(l.f, e.data, e.size), b)
	return b, err
}
