package layer

// A journal that was cut off, or that something was appended to. What is sound of it is used: it gets the length back that it was
// made with, and then it is one with records that can't be read, or with all of them.
//
//	write zeros behind its end, or cut it off, sync    crash: the same, or another length; the next repair goes on

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errLength is a journal of so many bytes, which no journal has.
type errLength int64

func (e errLength) Error() string {
	return fmt.Sprintf("%v: it has %d bytes, and was made with %d", errJournal, int64(e), journalSlots*blockSize)
}

func (e errLength) Unwrap() error { return errJournal }

// journalRemedy says what a repair makes of damage to the journal.
func journalRemedy(dir string, err error) string {
	if errors.Is(err, errLinked) {
		return ""
	}
	with := "without"
	if errors.As(err, new(errLength)) || errors.As(err, new(journalGap)) {
		with = "with what can be read of it"
	}
	return fmt.Sprintf("; `snapfs check %s --repair` goes on %s", dir, with)
}

// mendLength is false for what is not the journal that the index names.
func (m *mender) mendLength(was errLength) (mended bool, err error) {
	f, err := openFile(filepath.Join(m.dir, journalName), os.O_RDWR|unix.O_NOFOLLOW)
	if err != nil {
		return false, err
	}
	defer f.Close()
	headers := make([]byte, journalHeaders*blockSize)
	if err := readAt(f, headers, 0); err != nil && int64(was) >= int64(len(headers)) {
		return false, err
	}
	j := &journalFile{}
	if err := j.readHeaders(headers); err != nil || hex.EncodeToString(j.id[:]) != m.catalog.store.Journal {
		return false, nil
	}
	size := int64(journalSlots) * blockSize
	if err := errors.Join(makeLength(f, int64(was), size), syncFile(f)); err != nil {
		return false, err
	}
	m.did(journalName, "it had %d bytes, and has the %d again that it was made with; those of its records are used that can be read", was, size)
	return true, nil
}

// makeLength gives a file of some length another one. What is added is written, as all of a journal is.
func makeLength(f *os.File, is, size int64) error {
	if is > size {
		return f.Truncate(size)
	}
	zeros := make([]byte, 1<<20)
	for is < size {
		n := min(int64(len(zeros)), size-is)
		if err := writeAt(f, zeros[:n], is); err != nil {
			return err
		}
		is += n
	}
	return nil
}
