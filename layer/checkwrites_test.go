package layer

// A check leaves every byte, name and time of a store as it was.

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// everythingIn is all that a directory has: names, kinds, sizes, times, content.
func everythingIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		text := fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			text += fmt.Sprint(info.Size(), " ", contentSum(t, path))
		}
		all[path] = text
		return nil
	}))
	return all
}

// contentSum is a checksum of all of a file that is not zero, and of where that is.
func contentSum(t tester, path string) string {
	t.Helper()
	sum := sha256.New()
	eachBlock(t, path, func(off int64, p []byte) {
		fmt.Fprint(sum, off, " ")
		sum.Write(p)
	})
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// killedStore is what a kill leaves of a store with a journal, a backup, checksums, and an unfinished log.
func killedStore(t *testing.T) (dir string) {
	t.Helper()
	s, v, f := backedUpStore(t)
	openJournal(t, s)
	for i := range 20 {
		write(t, f, blocksOf(byte(i), 1), int64(i%8)*blockSize)
		flush(t, f)
	}
	snapshot(t, v, "last")
	dir = filepath.Join(t.TempDir(), "store")
	killedAt(t, s, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), nil, 0o600))
	return dir
}

func TestCheckWritesNothing(t *testing.T) {
	killed := killedStore(t)
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"sound":      func(*testing.T, string) {},
		"no data":    func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, layersName))) },
		"no index":   func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, indexName))) },
		"no counter": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, commitsName))) },
		"no journal": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, journalName))) },
		"no list of tables": func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, indexName, "MANIFEST")))
		},
		"a damaged log": func(t *testing.T, dir string) {
			for name, used := range fullLogs(t, dir) {
				flipAt(t, name, used/2)
			}
		},
		"foreign files": func(t *testing.T, dir string) {
			for _, name := range []string{"000077.sst", "00077.mem", "notes.sst", "7.mem", "notes"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, indexName, name), []byte("a disk's data"), 0o600))
			}
		},
		"empty foreign files": func(t *testing.T, dir string) {
			for _, name := range []string{"000077.sst", "00077.mem"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, indexName, name), nil, 0o600))
			}
		},
		"lost data files": func(t *testing.T, dir string) {
			names, err := filepath.Glob(filepath.Join(dir, layersName, "*"))
			require.NoError(t, err)
			for _, name := range names {
				require.NoError(t, os.Remove(name))
			}
		},
	} {
		if !oneIn(6) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := copied(t, killed)
			spoil(t, dir)
			before := everythingIn(t, dir)
			report, err := Check(dir)
			require.Equal(t, before, everythingIn(t, dir))
			switch name {
			case "sound":
				require.NoError(t, err)
				require.Empty(t, report.Findings)
				require.Empty(t, report.Notes)
			case "empty foreign files":
				require.NoError(t, err)
				require.Empty(t, report.Findings)
				require.Len(t, report.Notes, 2)
			default:
				require.True(t, err != nil || len(report.Findings) > 0)
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		dir := sample(t)
		before := everythingIn(t, dir)
		report, err := Check(dir)
		require.NoError(t, err)
		require.Empty(t, report.Findings)
		require.Equal(t, before, everythingIn(t, dir))
	})
}

// What lies beside the index and is no part of it is put aside by whoever opens the index to write, and told.
func TestIndexStraysAreKept(t *testing.T) {
	for _, by := range []string{"mount", "repair"} {
		t.Run(by, func(t *testing.T) {
			dir := killedStore(t)
			names := []string{"000077.sst", "00077.mem", "notes.sst"}
			for _, name := range names {
				require.NoError(t, os.WriteFile(filepath.Join(dir, indexName, name), []byte("a disk's data"), 0o600))
			}
			var told []string
			if by == "mount" {
				openStore(t, dir, Options{Event: func(_, event string, attrs ...any) {
					if event == "index-stray" {
						told = append(told, fmt.Sprint(attrs[1]))
					}
				}})
			} else {
				for _, f := range repaired(t, dir).Repaired {
					told = append(told, f.Object)
				}
			}
			for _, name := range names {
				require.Contains(t, told, filepath.Join(indexName, name))
				kept, err := filepath.Glob(filepath.Join(dir, quarantineName, "*", indexName, name))
				require.NoError(t, err)
				require.Len(t, kept, 1)
				data, err := os.ReadFile(kept[0])
				require.NoError(t, err)
				require.Equal(t, "a disk's data", string(data))
			}
		})
	}
}
