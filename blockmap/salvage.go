package blockmap

// This file makes a backup of a damaged index: of the sound beginning of its log, where its tables are sound.

import (
	"errors"
	"fmt"
	"io"
)

// Beginning is how far a damaged index is sound.
type Beginning struct {
	Commit uint64 // the last one that is there, with all before it
	Made   uint64 // the last one that was ever made, as far as the counter knows
	index  *Index
}

// OpenBeginning opens what of a damaged index is sound, for reading: the state after one of its commits. It is an ErrDamaged if
// there is no such thing, as where a table is damaged, and nil where nothing is: unless the caller knows that its end is lost.
func OpenBeginning(dir string, o Options, lost bool) (_ *Beginning, err error) {
	s, c, err := surveyOf(dir, o)
	if err != nil {
		return nil, err
	}
	if err := s.verifyOwner(c, o); err != nil {
		return nil, err
	}
	b := &Beginning{Commit: s.last, Made: s.last}
	if c != nil {
		b.Made = max(b.Made, c.number())
	}
	if s.verify(b.Made) == nil && !lost {
		return nil, nil
	}
	if b.index, err = s.open(dir); err != nil {
		return nil, err
	}
	mark, err := b.index.mark()
	switch {
	case err != nil:
	case mark == nil:
		err = fmt.Errorf("%w: nothing of it can be read", ErrDamaged)
	case c != nil:
		err = c.verifyMark(mark, o.Counter)
	}
	if err != nil {
		return nil, errors.Join(err, b.index.Close())
	}
	return b, nil
}

// Index is that state.
func (b *Beginning) Index() *Index { return b.index }

// Backup writes it.
func (b *Beginning) Backup(w io.Writer) (BackupInfo, error) { return b.index.Backup(w, nil) }

// Close closes it.
func (b *Beginning) Close() error { return b.index.Close() }
