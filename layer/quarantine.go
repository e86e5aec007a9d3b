package layer

// The quarantine: what a repair or a restore takes out of the store's way is kept in it, by name.
//
//	STORE/quarantine/TIME/    one directory for each run; in it files under the names that they had in the store

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/blockmap"
)

const quarantineName = "quarantine"

// quarantine is one run's directory, made when it is first needed.
type quarantine struct {
	store string
	name  string // relative to the store; empty: not made yet
	dirs  map[string]bool
}

// path makes the directory, and returns that of a name in it.
func (q *quarantine) path(name string) (string, error) {
	if q.name == "" {
		if err := q.make(); err != nil {
			return "", Errorf(syscall.EIO, "make a directory in %s: %w", filepath.Join(q.store, quarantineName), err)
		}
	}
	return filepath.Join(q.store, q.name, name), nil
}

func (q *quarantine) make() error {
	top := filepath.Join(q.store, quarantineName)
	wrong := wrongIn(q.store, quarantineName) != ""
	if wrong {
		if err := rename(top, top+".was"); err != nil {
			return err
		}
	}
	if err := mkdir(top, os.MkdirAll); err != nil {
		return err
	}
	base := time.Now().UTC().Format(backupTime)
	for name, i := base, 2; ; i++ {
		err := mkdir(filepath.Join(top, name), os.Mkdir)
		if err == nil {
			q.name = filepath.Join(quarantineName, name)
			if wrong {
				err = rename(top+".was", filepath.Join(top, name, quarantineName))
			}
			return errors.Join(err, syncDirectory(q.store), syncDirectory(top))
		}
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		name = base + "-" + strconv.Itoa(i)
	}
}

// take moves a file of the store there.
func (q *quarantine) take(name string) error {
	to, err := q.path(name)
	if err != nil {
		return err
	}
	from := filepath.Join(q.store, name)
	for _, dir := range []string{filepath.Dir(to), filepath.Dir(from)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if q.dirs == nil {
			q.dirs = make(map[string]bool)
		}
		q.dirs[dir] = true
	}
	err = rename(from, to)
	if errors.Is(err, unix.EXDEV) {
		return Errorf(syscall.EXDEV, "%s is to be put into quarantine, and is on another disk than the store: move the directory that %s/%s leads to in the place of the link, and try again",
			name, q.store, filepath.Dir(name))
	}
	if err != nil {
		return Errorf(syscall.EIO, "put %s into quarantine: %w", name, err)
	}
	return nil
}

// takeStray moves a file of the index there that is no part of it, for good.
func (q *quarantine) takeStray(f blockmap.Stray) error {
	return errors.Join(q.take(filepath.Join(indexName, f.Name)), q.settle())
}

// takeIndexStray returns what is takeStray, and notes it in done.
func (q *quarantine) takeIndexStray(done *[]Finding) func(blockmap.Stray) error {
	return func(f blockmap.Stray) error {
		err := q.takeStray(f)
		if err == nil {
			*done = append(*done, Finding{Object: filepath.Join(indexName, f.Name), Text: f.Text + ": it is in " + q.name + " now"})
		}
		return err
	}
}

// settle makes durable what was taken.
func (q *quarantine) settle() error {
	if q.name == "" {
		return nil
	}
	var errs []error
	for dir := range q.dirs {
		errs = append(errs, syncDirectory(dir))
	}
	return errors.Join(append(errs, syncDirectory(filepath.Join(q.store, q.name)))...)
}

// setAside puts strays into quarantine, with their checksums.
func (m *mender) setAside(q *quarantine, strays []stray) error {
	for _, s := range strays {
		if err := q.take(s.name); err != nil {
			return err
		}
		m.did(s.name, "%s: it is in %s now (%s)", s.text, q.name, bytesText(s.bytes))
		if name, ok := strings.CutPrefix(s.name, layersName+"/"); ok && !m.isSummed(name) {
			if err := q.take(filepath.Join(sumsName, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return q.settle()
}

// isSummed says whether a layer of that name has checksums, as the catalog has it: then they stay, whatever stood in its file's place.
func (m *mender) isSummed(name string) bool {
	id, err := strconv.ParseUint(name, 16, 64)
	return err == nil && m.catalog.layers[LayerID(id)].Summed
}

// makeMissing makes an empty data file for each layer whose own is gone: all of it is noted as lost.
func (m *mender) makeMissing() error {
	made := false
	for _, l := range m.layers() {
		if f, err := m.openData(l.id); err != nil || f != nil {
			if f != nil {
				_ = f.Close()
			}
			if err != nil {
				return err
			}
			continue
		}
		f, err := openFile(m.path(layersName, l.id), os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		made = true
	}
	if made {
		return syncDirectory(filepath.Join(m.dir, layersName))
	}
	return nil
}
