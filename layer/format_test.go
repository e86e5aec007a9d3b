package layer

// FORMAT has the identity of the store's index: two files of one other store, which agree with each other, are not taken for the
// store's own.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// logIn is the log of a young store that has commits.
func logIn(t *testing.T, dir string) string {
	t.Helper()
	for name := range fullLogs(t, dir) {
		return name
	}
	t.Fatal("there is none")
	return ""
}

// The counter and a log of another store, beside the own one: that is used, and the others go into quarantine.
func TestCounterAndLogOfAnotherStoreBeside(t *testing.T) {
	other, _ := ownedStore(t, false, false)
	for _, backup := range []bool{true, false} {
		dir, content := ownedStore(t, false, backup)
		copySparse(t, filepath.Join(other, commitsName), filepath.Join(dir, commitsName))
		copySparse(t, logIn(t, other), filepath.Join(dir, indexName, "00007.mem"))
		require.ErrorContains(t, requireRefused(t, dir), "commits is that of another store")
		require.Contains(t, findingOf(t, dir, commitsName), "commits is that of another store")
		report := repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Len(t, report.Repaired, 2)
		kept, err := filepath.Glob(filepath.Join(dir, quarantineName, "*", indexName, "00007.mem"))
		require.NoError(t, err)
		require.Len(t, kept, 1)
		requireContent(t, dir, content)
	}
}

// The counter and the log of another store in the place of the own ones: nothing is begun with them.
func TestCounterAndLogOfAnotherStoreInstead(t *testing.T) {
	other, _ := ownedStore(t, false, false)
	for _, backup := range []bool{true, false} {
		dir, content := ownedStore(t, false, backup)
		mine := copied(t, dir)
		log := logIn(t, dir)
		copySparse(t, filepath.Join(other, commitsName), filepath.Join(dir, commitsName))
		copySparse(t, logIn(t, other), log)
		err := requireRefused(t, dir)
		text := findingOf(t, dir, indexName)
		before := everythingOfStore(t, dir)
		report, repairErr := repairAndTell(dir)
		require.NoError(t, repairErr)
		require.NotEmpty(t, report.Findings)
		require.Equal(t, before, everythingOfStore(t, dir), "what isn't this store's is not repaired")
		if backup {
			require.ErrorContains(t, err, "the index and commits are those of another store")
			require.Contains(t, text, "`snapfs restore-index "+dir+"` goes back to the backup")
			_, err = restoreAndTell(dir, false)
			require.NoError(t, err)
			s := openStore(t, dir, Options{})
			requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s1", "root"), "a snapshot")
			continue
		}
		require.ErrorContains(t, err, "nothing tells which of commits, index and FORMAT is this one's")
		copySparse(t, filepath.Join(mine, commitsName), filepath.Join(dir, commitsName))
		copySparse(t, logIn(t, mine), log)
		requireContent(t, dir, content)
	}
}

func TestFormatOfAnotherStore(t *testing.T) {
	other, _ := ownedStore(t, false, false)
	foreign, err := os.ReadFile(filepath.Join(other, formatName))
	require.NoError(t, err)
	for _, tables := range []bool{true, false} {
		dir, content := ownedStore(t, tables, true)
		putFile(t, dir, formatName, foreign)
		require.ErrorContains(t, requireRefused(t, dir), "FORMAT is that of another store")
		require.Contains(t, findingOf(t, dir, formatName), "FORMAT is that of another store")
		_, err := restoreAndTell(dir, false)
		require.ErrorContains(t, err, "FORMAT is that of another store")
		report := repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Len(t, report.Repaired, 1)
		requireContent(t, dir, content)

		dir, content = ownedStore(t, tables, false)
		putFile(t, dir, formatName, foreign)
		require.ErrorContains(t, requireRefused(t, dir), "if it is FORMAT that is not, remove that, and run `snapfs check "+dir+" --repair`")
		require.NoError(t, os.Remove(filepath.Join(dir, formatName)))
		require.Len(t, repaired(t, dir).Repaired, 1)
		requireContent(t, dir, content)
	}
}

// With the counter as well it is two files of one other store, against the index and its backups.
func TestFormatAndCounterOfAnotherStore(t *testing.T) {
	other, _ := ownedStore(t, false, false)
	dir, content := ownedStore(t, true, true)
	for _, name := range []string{formatName, commitsName} {
		copySparse(t, filepath.Join(other, name), filepath.Join(dir, name))
	}
	err := requireRefused(t, dir)
	require.ErrorContains(t, err, "is not of the index that the store names; commits and FORMAT are those of another store, the index is this one's")
	require.NotContains(t, err.Error(), "it is that of another store")
	require.Len(t, repaired(t, dir).Repaired, 2)
	requireContent(t, dir, content)
}

// FORMAT has the identity from the first mount on, also where an earlier program wrote it, and keeps it when it is raised.
func TestFormatNamesTheIndex(t *testing.T) {
	s := newStore(t, Options{})
	named := formatIdentity(s.dir)
	require.Equal(t, named, identityOf(s.dir))
	require.NotNil(t, named)
	require.NoError(t, s.Close())
	require.NoError(t, writeFormat(s.dir, format{Version: 1}))
	require.Nil(t, formatIdentity(s.dir))
	s = openStore(t, s.dir, Options{})
	require.Equal(t, named, formatIdentity(s.dir))
	require.Equal(t, 1, s.Format().Version)
	require.NoError(t, s.RaiseFormat(newestFormat))
	require.Equal(t, named, formatIdentity(s.dir))
	text, err := os.ReadFile(filepath.Join(s.dir, formatName))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), "\n"))
}
