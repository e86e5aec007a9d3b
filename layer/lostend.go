package layer

// Does an index lack its last commits? The counter says so. Where that is lost, or another store's, other files may show it: they
// are made and written after the commits that they go on from, so that nothing that the index does not know yet can be there.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/snapfs/snapfs/blockmap"
)

// lostEnd is that it does. It is a blockmap.ErrDamaged, too.
type lostEnd struct {
	signs []Finding
}

func (e lostEnd) Error() string {
	return fmt.Sprintf("its last commits are missing, as %s shows", e.signs[0].Object)
}

func (e lostEnd) Unwrap() error { return blockmap.ErrDamaged }

// findLostEnd looks for that where no counter tells. An index that is damaged otherwise is none.
func findLostEnd(dir string, w owner) (end lostEnd, found bool) {
	if w.counted && !w.foreignCounter || !isDirectory(filepath.Join(dir, indexName)) {
		return end, false
	}
	err := readIndexBy(dir, "", w.identity, func(o *offline) (err error) {
		end, found, err = o.lostEnd()
		return err
	})
	return end, found && err == nil
}

func (o *offline) lostEnd() (end lostEnd, found bool, err error) {
	if sound, err := o.isSound(); err != nil || !sound {
		return end, false, err
	}
	for _, f := range o.foreign {
		if f.Instead {
			end.signs = append(end.signs, Finding{Object: filepath.Join(indexName, f.Name), Text: f.Text})
		}
	}
	files, err := o.newerFiles()
	end.signs = slices.Concat(end.signs, files, o.newerRecords())
	return end, len(end.signs) > 0 && err == nil, err
}

// newerFiles are those of ids that the index has not given out. It does so before they are made.
func (o *offline) newerFiles() (signs []Finding, err error) {
	for _, dir := range []string{layersName, sumsName, imagesName} {
		var names []string
		err := o.eachFile(dir, func(name string, info os.FileInfo) {
			bare := strings.TrimSuffix(name, packedExt)
			id, err := strconv.ParseUint(bare, 16, 64)
			if err == nil && fileName(LayerID(id)) == bare && o.catalog.store.Next <= id && id < maxID && info.Mode().IsRegular() {
				names = append(names, name)
			}
		})
		if err != nil {
			return nil, err
		}
		if n := len(names); n > 0 {
			text := "is newer than all that the index knows"
			if n > 1 {
				text += fmt.Sprintf(", and so are %d others", n-1)
			}
			signs = append(signs, Finding{Object: filepath.Join(dir, names[0]), Text: text})
		}
	}
	return signs, nil
}

// newerRecords says whether the journal has records of layers that the index has not made yet, or counts such as needless that
// the index needs still. A journal that can't be read shows nothing here.
func (o *offline) newerRecords() []Finding {
	if o.catalog.store.Journal == "" {
		return nil
	}
	file, records, release, err := findJournal(o.dir, o.catalog.store)
	if err != nil || len(records) == 0 {
		return nil
	}
	defer release()
	defer file.close()
	tail, unknown, needless := records[len(records)-1].tail, 0, 0
	for _, r := range records {
		l, known := o.catalog.layers[r.layer]
		switch {
		case uint64(r.layer) >= o.catalog.store.Next:
			unknown += len(r.blocks)
		case known && l.Journal <= r.number && r.number < tail:
			needless += len(r.blocks)
		}
	}
	var signs []Finding
	tell := func(blocks int, text string) {
		if blocks > 0 {
			signs = append(signs, Finding{Object: journalName, Text: fmt.Sprintf("has %d blocks that guests had flushed, %s", blocks, text)})
		}
	}
	tell(unknown, "of layers that the index does not know")
	tell(needless, "which were in the index since, and are not")
	return signs
}
