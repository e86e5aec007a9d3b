package layer

// Shapes: what has to be a file in a store's directory is one, and what has to be a directory. Something else in its place, such
// as a link to a file or a named pipe, is not opened: who follows a link writes elsewhere, and who opens a pipe waits. But a directory
// may be a link to one, and the log to a file, on another disk. What the store can do
// without is put into quarantine by a mount, so that no VM waits for that; for the rest a mount is refused, by name, and a
// repair does it.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// shape is what something in a store's directory has to be.
type shape struct {
	name  string
	dir   bool // or a file
	spare bool // the store can do without, and makes it anew
}

var shapes = []shape{
	{name: formatName}, {name: lockName}, {name: commitsName}, {name: journalName}, {name: markName}, {name: keptName},
	{name: indexName, dir: true}, {name: layersName, dir: true},
	{sumsName, true, true}, {backupName, true, true}, {imagesName, true, true}, {frozenName, true, true}, {quarantineName, true, true},
	{ballastName, false, true}, {scheduleName, false, true}, {"events", false, true}, {logName, false, true},
	{"log.1", false, true}, {"log.2", false, true}, {scheduleName + ".new", false, true}, {"events.new", false, true},
	{formatName + ".tmp", false, true}, {journalName + ".tmp", false, true}, {keptName + ".tmp", false, true},
}

const logName = "log"

// shapeOf is empty if a name may be anything.
func shapeOf(name string) shape {
	if i := slices.IndexFunc(shapes, func(s shape) bool { return s.name == name }); i >= 0 {
		return shapes[i]
	}
	return shape{}
}

// wrong says what something is that it must not be; empty: nothing, or it is not there.
func (s shape) wrong(mode fs.FileMode) string {
	switch {
	case s.name == "" || s.dir && mode.IsDir() || !s.dir && mode.IsRegular():
		return ""
	case s.dir:
		return "is " + kindOf(mode) + " in the place of a directory"
	}
	return "is " + kindOf(mode) + " in the place of a file"
}

// wrongIn is wrong for what is in a store.
func wrongIn(dir, name string) string {
	path, s := filepath.Join(dir, name), shapeOf(name)
	info, err := os.Lstat(path)
	if err != nil {
		return ""
	}
	if what := s.away(dir); what != "" {
		return what
	}
	if there, err := os.Stat(path); err == nil && s.mayLink() {
		info = there
	}
	return s.wrong(info.Mode())
}

func (s shape) mayLink() bool { return s.dir || s.name == logName }

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "a file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a named pipe"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// isFile says whether a file is there, and no link to one.
func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// takeWrong puts what the store can do without, and is not what it has to be, into quarantine, and calls told for each.
func (q *quarantine) takeWrong(told func(name, what string)) error {
	for _, s := range shapes {
		what := wrongIn(q.store, s.name)
		if what == "" || !s.spare {
			continue
		}
		var err error
		if s.name == quarantineName {
			_, err = q.path("") // which needs its place
		} else {
			err = q.take(s.name)
		}
		if err := errors.Join(err, q.settle()); err != nil {
			return err
		}
		told(s.name, what)
	}
	return nil
}

// noteWrong is takeWrong, noted in done.
func (q *quarantine) noteWrong(done *[]Finding) error {
	return q.takeWrong(func(name, what string) {
		*done = append(*done, Finding{Object: name, Text: what + ": it is in " + q.name + " now"})
	})
}

// makeLayers makes the directory of data files anew where it is not there. Whoever had data in it has lost all of it.
func makeLayers(dir string, q *quarantine, done *[]Finding) error {
	path := filepath.Join(dir, layersName)
	if isDirectory(path) {
		return nil
	}
	what := wrongIn(dir, layersName)
	if what == "" {
		what = "was missing"
	} else if err := errors.Join(q.take(layersName), q.settle()); err != nil {
		return err
	} else {
		what += ": it is in " + q.name + " now"
	}
	if err := errors.Join(mkdir(path, os.Mkdir), syncDirectory(dir)); err != nil {
		return Errorf(syscall.EIO, "make %s: %w", path, err)
	}
	*done = append(*done, Finding{Object: layersName, Text: fmt.Sprintf("%s; it is made anew, without the data that was in it", what)})
	return nil
}

// takeLock puts what is in the place of the lock into quarantine. Nobody can hold that.
func (q *quarantine) takeLock(done *[]Finding) error {
	what := wrongIn(q.store, lockName)
	if what == "" {
		return nil
	}
	if err := errors.Join(q.take(lockName), q.settle()); err != nil {
		return err
	}
	*done = append(*done, Finding{Object: lockName, Text: what + ": it is in " + q.name + " now"})
	return nil
}
