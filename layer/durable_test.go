package layer

// What the index names is there by then: whenever a commit is on its way, the directory of each file that the commit before
// it names has been synced since the file got its name, and that of each file that went before the index forgot it. A power
// loss shows little of this: most file systems make more durable than they are asked for.

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

// nameLog is told of every name that is made, renamed or removed, and of every sync.
type nameLog struct {
	t  *testing.T
	mu sync.Mutex
	// loose has what happened to names whose directory has not been synced since.
	loose  map[string]string
	last   map[string]string // loose before the last commit
	store  *Store            // that commits
	synced map[string]int    // directories, and how often
	seen   int               // names that a commit was compared with
}

func keepNameLog(t *testing.T) *nameLog {
	n := &nameLog{t: t, loose: make(map[string]string), synced: make(map[string]int)}
	noted, commitFault = n.note, n.commit
	t.Cleanup(func() { noted, commitFault = nil, nil })
	return n
}

func (n *nameLog) note(kind, path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err := os.Lstat(path)
	there := err == nil
	switch kind {
	case "create", "mkdir":
		if !there {
			n.loose[path] = kind
		}
	case "rename":
		n.loose[path] = kind
	case "unlink":
		if there {
			n.loose[path] = kind
		}
	case "sync":
		synced := false
		for name := range n.loose {
			if filepath.Dir(name) == path {
				synced = true
				delete(n.loose, name)
			}
		}
		if synced {
			n.synced[filepath.Base(path)]++
		}
	}
}

// commit compares what is in the index before a commit with what was durable before the one that put it there.
func (n *nameLog) commit(commit func() error) error {
	n.mu.Lock()
	before, store := n.last, n.store
	n.last = maps.Clone(n.loose)
	n.mu.Unlock()
	if before != nil && store != nil {
		n.compare(store, before)
	}
	return commit()
}

// use says which store commits from now on; nil: one that is being opened.
func (n *nameLog) use(s *Store) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.store, n.last = s, nil
}

func (n *nameLog) compare(s *Store, before map[string]string) {
	named, err := namedBy(s)
	if errors.Is(err, blockmap.ErrClosed) {
		return
	}
	if err != nil {
		n.t.Errorf("the index: %v", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen += len(named)
	for path, what := range before {
		switch use := named[path]; {
		case what == "unlink" && use == "" && !temporary(s.dir, path):
			n.t.Errorf("%s was removed, and the index has forgotten it, without a sync of %s", path, filepath.Dir(path))
		case what != "unlink" && use == "needed":
			n.t.Errorf("%s of %s: the index names it without a sync of %s", what, path, filepath.Dir(path))
		}
	}
}

// temporary says whether a name may be there or not, whatever the index has.
func temporary(dir, path string) bool {
	switch name := filepath.Base(path); filepath.Dir(path) {
	case dir, filepath.Join(dir, indexName), filepath.Join(dir, sumsName), filepath.Join(dir, backupName):
		return true
	default:
		return strings.HasSuffix(name, ".tmp")
	}
}

// namedBy are the names that the index relies on, "needed", or may still remove, "known".
func namedBy(s *Store) (map[string]string, error) {
	named := make(map[string]string)
	for _, name := range []string{formatName, indexName, layersName, commitsName} {
		named[filepath.Join(s.dir, name)] = "needed"
	}
	need := func(path string, needed bool) {
		named[path] = "known"
		if needed {
			named[path] = "needed"
			named[filepath.Dir(path)] = "needed"
		}
	}
	layers := filepath.Join(s.dir, layersName)
	return named, s.index.View(func(tx *blockmap.Tx) error {
		value, err := tx.Get([]byte{tableMeta})
		if err != nil || value == nil {
			return err
		}
		if r, err := decode[storeRecord]([]byte{tableMeta}, value); err != nil || r.Journal != "" {
			need(filepath.Join(s.dir, journalName), true)
			need(filepath.Join(s.dir, markName), err != nil || r.JournalMark)
			need(filepath.Join(s.dir, keptName), err != nil || r.JournalKept)
		}
		return errors.Join(
			scan(tx, tableLayer, func(id uint64, r layerRecord) error {
				need(filepath.Join(layers, fileName(LayerID(id))), r.HasFile)
				need(s.data.sums.path(LayerID(id)), r.Summed)
				return nil
			}),
			tx.Scan([]byte{tableUnlink}, func(key, _ []byte) error {
				id, err := keyID(key, 0)
				need(filepath.Join(layers, fileName(LayerID(id))), false)
				return err
			}),
			scan(tx, tableImage, func(id uint64, r imageRecord) error {
				need(s.images.path(imageID(id), false), r.Bytes > 0 && !r.Packed)
				need(s.images.path(imageID(id), true), r.Packed)
				return nil
			}),
		)
	})
}

// settled requires that nothing that is there, or gone, waits for a sync any more but what may be lost.
func (n *nameLog) settled(dir string) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for path, what := range n.loose {
		switch name := filepath.Base(path); {
		case name == lockName, name == ballastName, strings.HasSuffix(name, ".tmp"): // are made anew
		case what == "unlink" && (temporary(dir, path) || filepath.Dir(path) == filepath.Join(dir, imagesName)): // if it comes back, it goes again
		case strings.HasPrefix(path, filepath.Join(dir, indexName)+"/"): // Badger's
		default:
			n.t.Errorf("%s of %s, at rest, without a sync of %s", what, path, filepath.Dir(path))
		}
	}
}

func TestNamesAreDurable(t *testing.T) {
	sumsByHand(t)
	n := keepNameLog(t)
	w := &faultWorld{dir: filepath.Join(t.TempDir(), "store")}
	w.store = openStore(t, w.dir, Options{})
	for _, step := range faultSteps() {
		if !strings.HasPrefix(step.name, "remount") {
			n.use(w.store)
		} else {
			n.use(nil)
		}
		require.NoError(t, step.do(w), step.name)
		rest(t, w.store)
		n.settled(w.dir)
		require.False(t, t.Failed(), "after %q", step.name)
	}
	n.use(nil)
	require.NoError(t, w.store.Close())
	require.NotZero(t, n.seen)
	t.Logf("%d names compared", n.seen)

	// A file that is nobody's is put into quarantine.
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, layersName, "foreign"), []byte("foreign"), 0o600))
	_, err := repairAndTell(w.dir)
	require.NoError(t, err)
	n.settled(w.dir)
	for _, dir := range []string{"store", layersName, sumsName, imagesName, backupName, quarantineName} {
		require.NotZero(t, n.synced[dir], "nothing was ever made in %s", dir)
	}
}
