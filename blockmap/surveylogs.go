package blockmap

// This file looks through the logs of an index: which of them belong to it, how far their commits go without a gap, and which
// file it is that is damaged where they do not go far enough.

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// logNumber is that in a log's name.
func logNumber(path string) (id uint64, ok bool) {
	name := filepath.Base(path)
	if !OwnName(name) {
		return 0, false
	}
	id, err := strconv.ParseUint(strings.TrimSuffix(name, filepath.Ext(name)), 10, 64)
	return id, err == nil && filepath.Base(logName("", int(id))) == name
}

// surveyLogs looks at all logs in dir, in the order of their numbers.
func (h host) surveyLogs(dir string, identity *[16]byte, s *survey) error {
	paths, err := filepath.Glob(filepath.Join(dir, memPattern))
	if err != nil {
		return err
	}
	var logs []string
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		switch _, ok := logNumber(path); {
		case !ok:
			s.stray(filepath.Base(path), true, "is nothing of an index's")
		case !info.Mode().IsRegular():
			s.stray(filepath.Base(path), true, "is no file")
			s.without(path)
		default:
			logs = append(logs, path)
		}
	}
	slices.SortFunc(logs, func(a, b string) int {
		m, _ := logNumber(a)
		n, _ := logNumber(b)
		return cmp.Compare(m, n)
	})
	next := uint64(1) // of the log that is made ahead
	for _, path := range logs {
		id, _ := logNumber(path)
		empty := false
		err := h.withFile(path, func(data []byte) error {
			if empty = len(data) == 0; empty {
				s.without(path)
			} else {
				s.addLog(path, data, identity)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if empty && id > next {
			s.stray(filepath.Base(path), false, "is empty, and not the next log of the index")
		} else if !empty {
			next = id + 1
		}
	}
	s.markInstead()
	return nil
}

// markInstead marks strays that may be in the place of a log of the index: up to where the next one would be.
func (s *survey) markInstead() {
	last := ^uint64(0) - 1
	if n := len(s.logs); n > 0 {
		last, _ = logNumber(s.logs[n-1].name)
	}
	for i, f := range s.strays {
		id, isLog := logNumber(f.Name)
		isLog = isLog && filepath.Ext(f.Name) == ".mem"
		s.strays[i].Instead = isLog && id <= last+1 && (f.Foreign || f.Name == filepath.Base(s.unread))
	}
}

// without notes the first log that has no commits.
func (s *survey) without(path string) {
	s.bare = cmp.Or(s.bare, path)
}

// addLog adds a log that is not empty.
func (s *survey) addLog(path string, data []byte, identity *[16]byte) {
	name, scan := filepath.Base(path), scanLog(data)
	newest := uint64(0) // of the logs before it
	if n := len(s.logs); n > 0 {
		newest = s.logs[n-1].last
	}
	switch {
	case scan.first == 0 && (len(data) < logHeader || !plainLog(data) || !isZero(data[logHeader:])):
		s.stray(name, false, "is a log in which no commit can be read")
		s.without(path)
		s.unread = cmp.Or(s.unread, path)
	case scan.first == 0: // nothing was committed to it yet
		s.without(path)
	case identity != nil && scan.identity != nil && !bytes.Equal(scan.identity, identity[:]):
		s.stray(name, true, "is the log of another index")
		s.foreign = cmp.Or(s.foreign, path)
	case scan.last <= newest:
		s.stray(name, true, "is a log whose commits, %d to %d, are in the logs before it", scan.first, scan.last)
	case scan.last < s.stored:
		s.stray(name, false, "is a log whose commits, %d to %d, are in tables long since", scan.first, scan.last)
	case s.damage != nil && scan.first > s.last+1: // the first gap was told
	case scan.first > s.last+1:
		s.damage = s.damaged(fmt.Sprintf("%s begins with commit %d", path, scan.first))
	default:
		if !plainLog(data) && s.damage == nil {
			s.damage = fmt.Errorf("%w: %s: %w", ErrDamaged, path, errHeader)
		}
		s.logs = append(s.logs, soundLog{path, scan.first, scan.last, scan.end})
		s.last = scan.last
	}
}

// damaged is the error that commits are missing behind the last one, as something shows: it names the log that is damaged
// there, if there is one.
func (s *survey) damaged(shown string) error {
	for i := len(s.logs) - 1; i >= 0; i-- {
		l, more := s.logs[i], false
		err := host(nil).withFile(l.name, func(data []byte) error {
			more = !isZero(data[min(l.end, len(data)):])
			return nil
		})
		if err == nil && more {
			return fmt.Errorf("%w: %s is damaged behind commit %d, at byte %d: %s", ErrDamaged, l.name, l.last, l.end, shown)
		}
	}
	n := len(s.logs)
	switch {
	case s.foreign != "":
		return fmt.Errorf("%w: %s is the log of another index, and what came behind commit %d is missing: %s", ErrDamaged, s.foreign, s.last, shown)
	case s.unread != "":
		return fmt.Errorf("%w: %s is damaged from its beginning, behind commit %d: %s", ErrDamaged, s.unread, s.last, shown)
	case n > 0:
		return fmt.Errorf("%w: %s ends with commit %d, but %s: it is damaged behind that, or files are lost or of an older copy", ErrDamaged, s.logs[n-1].name, s.last, shown)
	case s.bare != "":
		return fmt.Errorf("%w: %s has nothing of what came behind commit %d: it is damaged, or files are lost or of an older copy: %s", ErrDamaged, s.bare, s.last, shown)
	}
	return fmt.Errorf("%w: %s ends with commit %d, but %s: files of it, as its logs (*.mem), are lost, or of an older copy", ErrDamaged, s.dir, s.last, shown)
}

// verify is nil if the index has all commits, up to the number that the counter has.
func (s *survey) verify(number uint64) error {
	err := s.damage
	if err == nil && number > s.last {
		err = s.damaged(fmt.Sprintf("commit %d was made", number))
	}
	return s.blameList(err)
}

var zeros [64 << 10]byte

func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
