package layer

// Links in the place of what holds a store's data. A directory may be one, to a directory on another disk; where none is there, that
// disk may be not mounted, with all data on it. The journal may be none: its file is replaced by renaming. In both cases nothing is
// made in the place of the link, removed or given up: it is refused by name, and goes on once somebody has set it right.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// away says what is wrong with a link in the place of a directory; empty: it is none, or leads to one.
func (s shape) away(dir string) string {
	path := filepath.Join(dir, s.name)
	to, err := os.Readlink(path)
	if err != nil || !s.dir || isDirectory(path) {
		return ""
	}
	return fmt.Sprintf("is a link to %s, where no directory is: if that is on a disk which is not mounted, mount it; if all of it is lost, remove the link, and try again", to)
}

func errAway(dir, name, what string) error {
	return Errorf(syscall.EIO, "store %s: its %s %s", dir, name, what)
}

// refuseAway refuses such links, but for those of some names.
func refuseAway(dir string, but ...string) error {
	for _, s := range shapes {
		if what := s.away(dir); what != "" && !slices.Contains(but, s.name) {
			return errAway(dir, s.name, what)
		}
	}
	return nil
}

// errLinked says that the journal, or a file beside it, is a link.
var errLinked = errors.New("is a link")

// refuseLinkedJournal refuses links in the place of files for which the index asks.
func (r storeRecord) refuseLinkedJournal(dir string) error {
	for _, name := range []string{journalName, markName, keptName} {
		path := filepath.Join(dir, name)
		to, err := os.Readlink(path)
		if err != nil || !r.journals(name) {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			to += ", where nothing is; is its disk mounted?"
		}
		return Errorf(syscall.EIO, "%s %w to %s: move the file itself to the place of the link; if it is lost, remove the link, and try again", path, errLinked, to)
	}
	return nil
}
