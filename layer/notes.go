package layer

// What check notes of files that are no damage: such as were never finished, or are of nothing that is there any more.

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

func (k *check) noteFiles() error {
	k.noteMode()
	k.noteSchedule()
	err := errors.Join(
		k.eachFile(".", func(name string, info os.FileInfo) {
			if isUnfinished(name) && k.strayInStore(name, info) == "" {
				k.note(name, "was never finished; whoever writes it next begins anew")
			}
		}),
		k.eachFile(backupName, func(name string, _ os.FileInfo) {
			if name == backupTemp {
				k.note(filepath.Join(backupName, name), "was never finished; the next backup begins anew")
			}
		}),
		k.eachFile(frozenName, func(name string, info os.FileInfo) {
			if isUnfinished(name) && k.strayFrozen(name, info) == "" {
				k.note(filepath.Join(frozenName, name), "was never finished, so that no guest was held still by it")
			}
		}),
		k.eachFile(sumsName, k.noteSums),
	)
	if _, missing := os.Lstat(filepath.Join(k.dir, keptName)); missing == nil && !k.catalog.store.JournalKept {
		k.note(keptName, "is not what the index asks for: nothing in it is needed, and the next mount that needs one writes it anew")
	}
	return err
}

// isUnfinished says so of what a crash leaves that was to be renamed.
func isUnfinished(name string) bool {
	return strings.HasSuffix(name, ".new") || strings.HasSuffix(name, ".tmp")
}

func (k *check) noteSums(name string, info os.FileInfo) {
	id, ok := layerOf(name, info)
	_, known := k.catalog.layers[id]
	switch {
	case !ok || known:
	case uint64(id) >= k.catalog.store.Next:
		k.note(filepath.Join(sumsName, name), "has checksums of a layer that never was: it is not this store's, and nothing reads it")
	default:
		k.note(filepath.Join(sumsName, name), "has checksums of a layer that is not there, as a crash may leave them; the next mount removes it")
	}
}

func (k *check) noteMode() {
	if info, err := os.Stat(k.dir); err == nil && info.Mode().Perm()&^storeMode != 0 {
		k.note(".", "has mode %04o: others than its owner can look into the store; `chmod %04o %s` ends that", info.Mode().Perm(), storeMode, k.dir)
	}
}

func (k *check) noteSchedule() {
	if _, err := os.Lstat(filepath.Join(k.dir, scheduleName)); err == nil {
		return
	}
	for id, p := range k.catalog.policies {
		if v, ok := k.catalog.vms[id]; ok && p.Schedule != "" {
			k.note(scheduleName, "is missing, and VM %q has a schedule: all schedules count from the next mount on", v.Name)
			return
		}
	}
}
