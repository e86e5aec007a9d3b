package layer

// Strays: files in a store's directory that are not the store's, or are and are of no use to anybody.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapfs/snapfs/blockmap"
)

// Names in a store's directory that are the daemon's.
const (
	frozenName   = "frozen"
	scheduleName = "schedule"
)

// storeNames are all that a store's directory may have. Of some there are older ones, and such as were never finished: these
// have more behind a dot.
var (
	storeNames = []string{
		lockName, indexName, layersName, commitsName, sumsName, backupName, ballastName, quarantineName, imagesName,
		frozenName, "lost+found",
	}
	dottedNames = []string{formatName, journalName, scheduleName, "log", "events"}
)

// stray is such a file.
type stray struct {
	name  string // relative to the store
	text  string
	bytes int64 // that it takes
}

func newStray(dir, text string, info os.FileInfo) stray {
	s := stray{name: filepath.Join(dir, info.Name()), text: text, bytes: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.bytes = st.Blocks * 512
	}
	return s
}

// eachFile calls fn for all that lies in one of the store's directories, if there is one, by name.
func (o *offline) eachFile(dir string, fn func(name string, info os.FileInfo)) error {
	entries, err := readDir(filepath.Join(o.dir, dir))
	if err != nil && !isDirectory(filepath.Join(o.dir, dir)) {
		return nil // a stray itself, if it is there
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			fn(entry.Name(), info)
		}
	}
	return nil
}

// strays are those in some of the store's directories, or in all, by name.
func (o *offline) strays(in ...string) (all []stray, err error) {
	for _, d := range []struct {
		name string
		why  func(name string, info os.FileInfo) string // empty: it is none
	}{
		{".", o.strayInStore}, {indexName, strayInIndex}, {layersName, o.strayLayer}, {sumsName, straySums},
		{backupName, o.strayBackup}, {imagesName, o.strayImage}, {frozenName, o.strayFrozen},
	} {
		if len(in) > 0 && !slices.Contains(in, d.name) {
			continue
		}
		err := o.eachFile(d.name, func(name string, info os.FileInfo) {
			if why := d.why(name, info); why != "" {
				all = append(all, newStray(d.name, why, info))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (o *offline) strayInStore(name string, _ os.FileInfo) string {
	base, _, _ := strings.Cut(name, ".")
	switch what := wrongIn(o.dir, name); {
	case what != "" && !o.catalog.store.journals(name):
		return what
	case !slices.Contains(storeNames, name) && !slices.Contains(dottedNames, base):
		return "is nothing of a store's"
	case name == scheduleName:
		if err := o.scheduleDamage(); err != nil {
			return err.Error() + ": without it all schedules count from the next mount on"
		}
	}
	return ""
}

func (o *offline) scheduleDamage() error {
	text, err := os.ReadFile(filepath.Join(o.dir, scheduleName))
	if err == nil {
		_, err = decodeSchedule(o.catalog.store.ID, text)
	}
	return err
}

// journals says whether the index asks for a file of the journal by that name.
func (r storeRecord) journals(name string) bool {
	return r.Journal != "" && (name == journalName || name == markName && r.JournalMark || name == keptName && r.JournalKept)
}

// heldDamage is what is wrong with a file that says how a guest is held.
func (o *offline) heldDamage(name string, id VMID) error {
	path := filepath.Join(o.dir, frozenName, name)
	if !isFile(path) {
		return errHeld
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = decodeHeld(o.catalog.store.ID, id, text, new(map[string]any))
	return err
}

// strayInIndex goes by names. The rest is told when the index is opened.
func strayInIndex(name string, _ os.FileInfo) string {
	ext := filepath.Ext(name)
	if ext == ".sst" || ext == ".mem" || blockmap.OwnName(name) {
		return ""
	}
	return "is nothing of an index's"
}

// layerOf is the layer that a file is named by.
func layerOf(name string, info os.FileInfo) (id LayerID, ok bool) {
	n, err := strconv.ParseUint(name, 16, 64)
	return LayerID(n), err == nil && fileName(LayerID(n)) == name && info.Mode().IsRegular()
}

func (o *offline) strayLayer(name string, info os.FileInfo) string {
	id, ok := layerOf(name, info)
	_, known := o.catalog.layers[id]
	switch {
	case !ok:
		return "is not a data file of this store"
	case !known && !slices.Contains(o.catalog.unlinks, id):
		return "is a data file that the catalog does not know"
	}
	return ""
}

// straySums leaves alone what is of a layer that is gone: a crash leaves such, and the start removes it.
func straySums(name string, info os.FileInfo) string {
	if _, ok := layerOf(name, info); ok {
		return ""
	}
	return "is not a file of checksums"
}

func (o *offline) strayBackup(name string, info os.FileInfo) string {
	at, commit, ok := parseBackupName(name)
	switch {
	case name == backupTemp && info.Mode().IsRegular():
		return ""
	case !ok || !info.Mode().IsRegular():
		return "is not a backup of the index"
	}
	if err := (backupFile{filepath.Join(o.dir, backupName, name), at, commit}).verify(identityOf(o.dir)); err != nil {
		return "is of no use: " + err.Error()
	}
	return ""
}

func (o *offline) strayImage(file string, info os.FileInfo) string {
	at := &images{dir: filepath.Join(o.dir, imagesName)}
	name, packed := strings.CutSuffix(file, packedExt)
	id, err := strconv.ParseUint(name, 16, 64)
	_, known := o.catalog.images[imageID(id)]
	switch {
	case err != nil || at.path(imageID(id), packed) != filepath.Join(at.dir, file):
		return "is not a memory image of this store"
	case !known:
		return "is a memory image that the catalog does not know"
	}
	return ""
}

func (o *offline) strayFrozen(name string, info os.FileInfo) string {
	id, err := strconv.ParseUint(strings.TrimSuffix(name, ".new"), 10, 64)
	switch {
	case err != nil || !info.Mode().IsRegular():
		return "is nothing of a store's"
	case strings.HasSuffix(name, ".new") || o.heldDamage(name, VMID(id)) == nil:
		return ""
	}
	whose := fmt.Sprintf("VM %d, which is gone,", id)
	if v, ok := o.catalog.vms[VMID(id)]; ok {
		whose = fmt.Sprintf("VM %q", v.Name)
	}
	return "is damaged: the guest of " + whose + " may be frozen still, or stopped, and nobody lets go of it; do that by its agent and monitor"
}
