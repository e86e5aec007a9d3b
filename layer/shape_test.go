package layer

// Something else than what has to be there, or nothing, in the place of each of a store's files and directories: it is named,
// a mount goes on without or is refused, and after a repair all that is not lost reads as before.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// shapedStore has one of everything, closed, and what all of its files and snapshots read.
func shapedStore(t *testing.T) (dir string, whole map[string][][]byte) {
	t.Helper()
	sumSoon(t)
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 12*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	image, err := s.NewImage(1 << 20)
	require.NoError(t, err)
	_, err = image.File().Write(pattern(1, 1<<20))
	require.NoError(t, err)
	_, err = v.CreateSnapshot(CreateOptions{Name: "s1", Image: image})
	require.NoError(t, err)
	summed(t, s)
	settle(t, s)
	write(t, f, blocksOf(2, 2), 4*blockSize)
	commit(t, f)
	openJournal(t, s)
	whole = contents(t, s)
	require.NoError(t, s.backUp(time.Now()))
	plans, err := s.EncodeSchedule(map[VMID]Plan{})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	putFile(t, s.dir, scheduleName, plans)
	for _, name := range []string{"log", "events", filepath.Join(frozenName, "77")} {
		path := filepath.Join(s.dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(s.dir, quarantineName), 0o700))
	requireSound(t, s.dir)
	return s.dir, whole
}

// deform puts something else into a file's or a directory's place.
func deform(t *testing.T, path, how string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(path))
	outside := filepath.Join(t.TempDir(), "outside")
	switch how {
	case "directory":
		require.NoError(t, os.MkdirAll(filepath.Join(path, "within"), 0o700))
	case "file":
		require.NoError(t, os.WriteFile(path, []byte("something"), 0o600))
	case "link":
		require.NoError(t, os.WriteFile(outside, []byte("of somebody else's"), 0o600))
		require.NoError(t, os.Symlink(outside, path))
		t.Cleanup(func() {
			data, err := os.ReadFile(outside)
			require.NoError(t, err)
			require.Equal(t, "of somebody else's", string(data))
		})
	case "link to nothing":
		require.NoError(t, os.Symlink(outside, path))
		t.Cleanup(func() { require.NoFileExists(t, outside) })
	case "pipe":
		require.NoError(t, unix.Mkfifo(path, 0o600))
	}
}

func TestShapes(t *testing.T) {
	pristine, whole := shapedStore(t)
	var names []string
	require.NoError(t, filepath.WalkDir(pristine, func(path string, _ os.DirEntry, err error) error {
		name, _ := filepath.Rel(pristine, path)
		names = append(names, name)
		return err
	}))
	names = append(names, keptName, "log.1", journalName+".tmp", formatName+".tmp", scheduleName+".new", filepath.Join(indexName, "LOCK"), filepath.Join(backupName, backupTemp))
	for i, name := range names[1:] {
		info, err := os.Lstat(filepath.Join(pristine, name))
		ways := []string{"directory", "link", "pipe", "missing", "link to nothing"}
		away := name == journalName || name == markName // links to these, and to directories, have tests of their own
		if err == nil && info.IsDir() {
			ways[0], away = "file", true
		}
		for k, how := range ways {
			if k != i%len(ways) || testing.Short() && i%2 == 0 || away && strings.HasPrefix(how, "link") {
				continue // each way, but not of everything
			}
			t.Run(name+" "+how, func(t *testing.T) { deformed(t, pristine, name, how, whole) })
		}
	}
}

// deformed is TestShapes of one name.
func deformed(t *testing.T, pristine, name, how string, whole map[string][][]byte) {
	dir := copied(t, pristine)
	deform(t, filepath.Join(dir, name), how)
	report, err := Check(dir)
	named := err == nil && len(report.Findings) > 0
	if err != nil {
		require.ErrorContains(t, err, name)
	}
	// A mount goes on, with all that is not lost, or is refused by name.
	var told []string
	mounted := copied(t, pristine)
	deform(t, filepath.Join(mounted, name), how)
	s, mountErr := Open(mounted, Options{Event: func(_, event string, attrs ...any) {
		told = append(told, event+fmt.Sprint(attrs...))
	}})
	if mountErr == nil {
		require.NoError(t, s.Close())
	} else {
		require.True(t, err != nil || named, "what stops a mount is named by a check: %v", mountErr)
		require.Contains(t, mountErr.Error(), strings.Split(name, "/")[0])
	}
	if how != "missing" && (how != "link" || name != logName) {
		require.True(t, err != nil || named, "it is named")
	}
	// The repair, and perhaps the restore that it names, mend all.
	report, err = repairAndTell(dir)
	if err != nil || report.Unread {
		require.Contains(t, fmt.Sprint(err, report.Findings), "`snapfs restore-index "+dir+"` goes back to the backup")
		_, err := restoreAndTell(dir, false)
		require.NoError(t, err)
	}
	again, err := repairAndTell(dir)
	require.NoError(t, err)
	require.Empty(t, again.Repaired, "of %v", report.Repaired)
	for _, f := range again.Findings {
		require.Contains(t, f.Text, "has lost")
	}
	s = openStore(t, dir, Options{})
	lost := requireWhole(t, s, whole)
	require.NoError(t, s.Close())
	data := strings.HasPrefix(name, layersName)
	require.Equal(t, data, len(lost) > 0, "%v", lost)
	for object := range lost {
		require.Contains(t, fmt.Sprint(again.Findings), object)
	}
}

// A directory on another disk, by a link to it, is one.
func TestLinkedDirectories(t *testing.T) {
	dir, whole := shapedStore(t)
	for _, name := range []string{layersName, sumsName, imagesName, backupName, logName} {
		outside := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.Rename(filepath.Join(dir, name), outside))
		require.NoError(t, os.Symlink(outside, filepath.Join(dir, name)))
	}
	requireSound(t, dir)
	require.Empty(t, repaired(t, dir).Repaired)
	s := openStore(t, dir, Options{})
	require.Equal(t, whole, contents(t, s))
	makeVM(t, s, "new")
	require.NoError(t, s.Close())
	requireSound(t, dir)
}

// A link that leads to no directory may be one to a disk that is not mounted: nothing goes on without, but a mount without copies.
func TestLinksToNoDirectory(t *testing.T) {
	pristine, whole := shapedStore(t)
	for _, shape := range shapes {
		for _, to := range []string{"nothing", "a file"} {
			if !shape.dir {
				continue
			}
			t.Run(shape.name+" is a link to "+to, func(t *testing.T) {
				dir, disk := copied(t, pristine), t.TempDir()
				link, away := filepath.Join(dir, shape.name), filepath.Join(disk, "away")
				require.NoError(t, os.Rename(link, filepath.Join(disk, "whole")))
				require.NoError(t, os.Symlink(away, link))
				if to == "a file" {
					require.NoError(t, os.WriteFile(away, nil, 0o600))
				}
				says := shape.name + " is a link to " + away + ", where no directory is: if that is on a disk which is not mounted"
				_, err := repairAndTell(dir)
				require.ErrorContains(t, err, says)
				_, err = restoreAndTell(dir, true)
				require.ErrorContains(t, err, says)
				report, err := Check(dir)
				require.Contains(t, fmt.Sprint(err, report.Findings), "is a link to "+away)
				spare := shape.name == backupName || shape.name == quarantineName
				if !spare {
					_, err = Open(dir, Options{})
					require.ErrorContains(t, err, says)
				}
				require.NoError(t, os.RemoveAll(away))
				require.NoError(t, os.Rename(filepath.Join(disk, "whole"), away))
				requireSound(t, dir)
				require.Equal(t, whole, contents(t, openStore(t, dir, Options{})))
			})
		}
	}
}

// Neither is the journal given up where a link is in its place: what it leads to may be all there.
func TestLinkedJournal(t *testing.T) {
	crashed, want := crashedJournaled(t)
	for _, name := range []string{journalName, markName} {
		for _, mounted := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " mounted=", mounted), func(t *testing.T) {
				dir, disk := copied(t, crashed), t.TempDir()
				link, away, file := filepath.Join(dir, name), filepath.Join(disk, "away"), filepath.Join(disk, "file")
				require.NoError(t, os.Rename(link, file))
				require.NoError(t, os.Symlink(away, link))
				if mounted {
					require.NoError(t, os.Symlink(file, away))
				}
				says := name + " is a link to " + away
				_, err := Open(dir, Options{})
				require.ErrorContains(t, err, says)
				require.Equal(t, !mounted, strings.Contains(err.Error(), "is its disk mounted?"))
				require.NotContains(t, err.Error(), "--repair")
				_, err = repairAndTell(dir)
				require.ErrorContains(t, err, says)
				report, err := Check(dir)
				require.NoError(t, err)
				require.Len(t, report.Findings, 1)
				require.Contains(t, report.Findings[0].Text, says)
				require.NoError(t, os.Rename(file, link))
				requireRoot(t, openStore(t, dir, Options{}), want, "all is there")
			})
		}
	}
}

// With neither an index nor data files there is a backup still: one restore makes a store that can be mounted, and says what is lost.
func TestRestoreWithoutLayers(t *testing.T) {
	dir, whole := shapedStore(t)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, indexName)))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, layersName)))
	report, err := restoreAndTell(dir, false)
	require.NoError(t, err)
	require.NotEmpty(t, report.Lost)
	found, err := Check(dir)
	require.NoError(t, err)
	require.Equal(t, report.Lost, found.Findings)
	require.Len(t, requireWhole(t, openStore(t, dir, Options{}), whole), len(whole))
}
