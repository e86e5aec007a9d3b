package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// poisonText begins what a write panics at. Behind it comes how often, at most, then a file that counts that; both may be
// missing.
const poisonText = "poison!"

// besideText begins a write that is noted in the file that is named behind it: a request that panicked often enough, and
// then runs, is noted there with its beginning and its end.
const besideText = "beside! "

// soonText begins what a worker panics of soon after it came.
const soonText = "poison-soon"

// poison is a worker's fault: it panics at every request that writes poison, to a disk or as a command, and at the names of
// snapshots that begin with it.
func poison(req []byte) {
	if len(req) < 40 {
		return
	}
	switch at := bytes.Index(req[40:min(len(req), 200)], []byte(poisonText)); binary.NativeEndian.Uint32(req[4:]) {
	case 9, 16: // MKDIR, WRITE
		if bytes.Contains(req[40:], []byte(soonText)) {
			time.AfterFunc(time.Duration(rand.IntN(5_000))*time.Microsecond, func() { panic("poison") })
		}
		if at >= 0 {
			often, count := countOf(string(req[40+at+len(poisonText) : min(len(req), 600)]))
			if count == "" || again(often, count) {
				panic("poison")
			}
			note(count+".log", "<")
			time.Sleep(100 * time.Millisecond)
			note(count+".log", ">")
		}
		if text, ok := bytes.CutPrefix(req[min(len(req), 80):], []byte(besideText)); ok {
			path, _, _ := bytes.Cut(text, []byte{0})
			note(string(path), "b")
		}
	}
}

// countOf parses what stands behind poisonText.
func countOf(text string) (often int64, path string) {
	if end := strings.IndexAny(text, "\x00\n\""); end >= 0 {
		text = text[:end]
	}
	number, path, _ := strings.Cut(text, " ")
	often, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, ""
	}
	return often, path
}

// again counts in a file, and says whether it is not enough yet.
func again(often int64, path string) bool {
	st, err := os.Stat(path)
	if err == nil && st.Size() >= often {
		return false
	}
	note(path, "x")
	return true
}

// note adds to a file, which may be missing.
func note(path, text string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	_, _ = f.WriteString(text)
}

// block is a disk's block that begins with a text.
func block(text string) []byte {
	p := make([]byte, 4096)
	copy(p, text)
	return p
}

// verifying runs fio on disks until stop is called, which requires that none saw an error.
func verifying(t *testing.T, disks ...string) (stop func()) {
	t.Helper()
	var stops []func()
	for _, disk := range disks {
		var out bytes.Buffer
		cmd := exec.Command("fio", "--name=verify", "--filename="+disk, "--size=8M", "--rw=randrw", "--bs=4k",
			"--iodepth=16", "--ioengine=libaio", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64",
			"--verify_state_save=0", "--fsync=64", "--time_based", "--runtime=600")
		cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		stops = append(stops, sync.OnceFunc(func() {
			early := cmd.Process.Signal(os.Interrupt) != nil
			<-ended
			assert.False(t, early, "fio ended by itself: %s", &out)
			assert.NotRegexp(t, "(?i)error|bad|fail", out.String())
		}))
	}
	stop = func() {
		t.Helper()
		for _, stop := range stops {
			stop()
		}
	}
	t.Cleanup(stop) // before the mount's end, also after a failure
	return stop
}

// readServed asks a mount who serves it.
func readServed(point string) (s served, err error) {
	text, err := os.ReadFile(filepath.Join(point, layer.SnapDir, "status"))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

func restartsOf(t *testing.T, point string) int {
	t.Helper()
	s, err := readServed(point)
	require.NoError(t, err)
	return s.Restarts
}

// One write always panics. It gets EIO after three workers; the guests beside it notice nothing.
func TestPoisonousWrite(t *testing.T) {
	store, point := newMount(t)
	web, db, bad := newVM(t, point, "web", ""), newVM(t, point, "db", ""), newVM(t, point, "bad", "as it was")
	stop := verifying(t, filepath.Join(web, "fio.img"), filepath.Join(db, "fio.img"))
	f, err := os.OpenFile(filepath.Join(bad, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	for range 3 {
		before := restartsOf(t, point)
		_, err = f.WriteAt(block(poisonText), 4096)
		require.ErrorIs(t, err, unix.EIO)
		require.Equal(t, before+3, restartsOf(t, point))
		_, err = f.WriteAt([]byte("good"), 8192)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
	}
	stop()
	require.Equal(t, "as it was", start(t, f.Name(), 9))
	log := done(t, "log", point)
	require.Equal(t, 3, strings.Count(log, "request-refused"), log)
	require.Contains(t, done(t, "log", bad), "request-refused vm=bad file=root.img op=WRITE errno=EIO")
	require.Contains(t, log, "panic or fault (exit status 2), requests under way: ")
	require.Contains(t, readLog(t, store), "WRITE of /bad/root.img")
}

// Many poisonous writes at once do not exhaust the supervisor's patience, with nobody else to be answered meanwhile.
func TestPoisonOnly(t *testing.T) {
	_, point := newMount(t)
	const many = 12
	var disks []*os.File
	for i := range many {
		f, err := os.OpenFile(filepath.Join(newVM(t, point, fmt.Sprint("vm", i), ""), "root.img"), os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		disks = append(disks, f)
	}
	var wait sync.WaitGroup
	errs := make([]error, many)
	for i, f := range disks {
		wait.Go(func() { _, errs[i] = f.WriteAt(block(poisonText), 0) })
	}
	wait.Wait()
	for _, err := range errs {
		require.ErrorIs(t, err, unix.EIO)
	}
	require.Equal(t, many, strings.Count(done(t, "log", point), "request-refused"))
	_, err := disks[0].WriteAt([]byte("good"), 0)
	require.NoError(t, err)
}

// What panics twice, for whatever reason, is answered right the third time, and so is all that ran with it.
func TestPanicsTwice(t *testing.T) {
	_, point := newMount(t)
	web, bad := newVM(t, point, "web", ""), newVM(t, point, "bad", "")
	stop := verifying(t, filepath.Join(web, "fio.img"))
	f, err := os.OpenFile(filepath.Join(bad, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	before := restartsOf(t, point)
	for i := range 3 {
		text := fmt.Sprintf("%s2 %s/count%d", poisonText, t.TempDir(), i)
		_, err = f.WriteAt(block(text), 0)
		require.NoError(t, err)
		require.Equal(t, text, start(t, f.Name(), len(text)))
	}
	stop()
	require.Equal(t, before+6, restartsOf(t, point))
	require.NotContains(t, done(t, "log", point), "request-refused")
}

// A write that panicked twice runs alone: with a real kernel, too, whatever waits there is read after it.
func TestRunsAlone(t *testing.T) {
	_, point := newMount(t)
	dir := t.TempDir()
	count, log := filepath.Join(dir, "count"), filepath.Join(dir, "count.log")
	stop := make(chan struct{})
	var wait sync.WaitGroup
	defer wait.Wait()
	stopOnce := sync.OnceFunc(func() { close(stop) })
	defer stopOnce()
	for i := range 4 {
		f, err := os.OpenFile(filepath.Join(newVM(t, point, fmt.Sprint("web", i), ""), "root.img"), os.O_RDWR, 0)
		require.NoError(t, err)
		wait.Go(func() {
			defer f.Close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.WriteAt(block(besideText+log), 0); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	noted := func() string {
		text, _ := os.ReadFile(log)
		return string(text)
	}
	require.Eventually(t, func() bool { return noted() != "" }, patience, time.Millisecond)
	f, err := os.OpenFile(filepath.Join(newVM(t, point, "bad", ""), "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(block(poisonText+"2 "+count), 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(noted(), ">b") }, patience, time.Millisecond)
	stopOnce()
	wait.Wait()
	require.Regexp(t, "^b+<>b+$", noted())
}

// killLoop sends a signal to one worker after the other.
func killLoop(t *testing.T, point string, sig syscall.Signal, times int) {
	t.Helper()
	for range times {
		worker := daemonOf(t, point)
		time.Sleep(time.Duration(20+time.Now().UnixNano()%100) * time.Millisecond)
		_ = unix.Kill(worker, sig)
		require.Eventually(t, func() bool {
			s, err := readServed(point)
			return err == nil && s.Worker != worker
		}, patience, time.Millisecond)
	}
}

// Workers that are killed from outside make nobody guilty: not by SIGKILL, and not by a fault's signal either, which
// suspects run alone after.
func TestInnocentRequests(t *testing.T) {
	for sig, times := range map[syscall.Signal]int{unix.SIGSEGV: 30, unix.SIGKILL: 10} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			store, point := newMount(t)
			web, db := newVM(t, point, "web", ""), newVM(t, point, "db", "")
			stop := verifying(t, filepath.Join(web, "fio.img"), filepath.Join(db, "fio.img"))
			killLoop(t, point, sig, times)
			stop()
			require.NotContains(t, done(t, "log", point), "request-refused")
			alone := strings.Count(readLog(t, store), "runs alone")
			if sig == unix.SIGKILL {
				require.Zero(t, alone)
			}
			t.Logf("%d requests ran alone", alone)
		})
	}
}

// A command that always panics gets EIO, and its answer says so; nothing is left of it. So does a name in .snapshots.
func TestPoisonousCommand(t *testing.T) {
	store, point := newMount(t)
	vm := newVM(t, point, "web", "hello")
	guest, err := os.OpenFile(filepath.Join(vm, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer guest.Close()
	done(t, "create", vm, "good")
	f, err := os.OpenFile(filepath.Join(vm, layer.SnapDir, "create"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(poisonText)
	require.ErrorIs(t, err, unix.EIO)
	answer, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Contains(t, string(answer), `{"error":{"code":"EIO","message":"three workers died`)
	require.ErrorIs(t, os.Mkdir(filepath.Join(vm, layer.SnapDir, poisonText), 0o755), unix.EIO)

	require.Equal(t, 1, strings.Count(done(t, "list", "-H", vm), "\n"))
	require.Contains(t, done(t, "log", vm), "request-refused vm=web file=.snapshots/create op=WRITE")
	require.Contains(t, done(t, "log", vm), "op=MKDIR")
	_, err = f.WriteString("after")
	require.NoError(t, err)
	_, err = guest.WriteAt([]byte("J"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, guest.Close())
	done(t, "umount", point)
	require.Contains(t, done(t, "check", store), " 2 snapshots")
}

// Commands that panic at any moment are done or not done: nothing in between.
func TestCommandsCutShort(t *testing.T) {
	store, point := newMount(t)
	vm := newVM(t, point, "web", "hello")
	var made, refused []string
	for i := range 20 {
		name := fmt.Sprint(soonText, i)
		err := os.Mkdir(filepath.Join(vm, layer.SnapDir, name), 0o755)
		if err == nil {
			made = append(made, name)
		} else {
			require.ErrorIs(t, err, unix.EIO)
			refused = append(refused, name)
		}
	}
	there := strings.Fields(done(t, "list", "-H", "-o", "name", vm))
	require.Subset(t, there, made)
	// Where answering killed, too, the log says that it is done.
	late := slices.DeleteFunc(slices.Clone(refused), func(name string) bool { return !slices.Contains(there, name) })
	require.Len(t, late, len(there)-len(made))
	require.Equal(t, len(late), strings.Count(done(t, "log", vm), "done=true"))
	t.Logf("%d workers died, %d of 20 snapshots were made, %d of them without an answer", restartsOf(t, point), len(there), len(late))
	done(t, "umount", point)
	require.Contains(t, done(t, "check", store), fmt.Sprintf(" %d snapshot", len(there)))
}

// A create that panics twice waits for its guest, which must be served meanwhile: it does not run alone.
func TestCommandUnderSuspicion(t *testing.T) {
	_, point := newMount(t)
	vm := newVM(t, point, "web", "hello")
	disk := filepath.Join(vm, "root.img")
	count := filepath.Join(t.TempDir(), "count")
	script := filepath.Join(t.TempDir(), "pre")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\necho Jello | dd of="+disk+" conv=notrunc,fsync 2>/dev/null\n"), 0o755))
	done(t, "policy", vm, "set", "quiesce.pre="+script)
	name := poisonText + "2 " + count
	f, err := os.OpenFile(filepath.Join(vm, layer.SnapDir, "create"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(`one description="` + name + `"`)
	require.NoError(t, err)
	require.Equal(t, "Jello", start(t, filepath.Join(vm, layer.SnapDir, "one", "root.img"), 5))
	require.Equal(t, 2, restartsOf(t, point))
	text, err := os.ReadFile(count)
	require.NoError(t, err)
	require.Len(t, text, 2)
}

// Which ends of a worker may be a request's doing.
func TestHowWorkersEnd(t *testing.T) {
	for script, want := range map[string]string{
		"exit 2":        "panic or fault (exit status 2), requests under way: 3",
		"exit 1":        "exit status 1",
		"kill -9 $$":    "signal: killed",
		"kill -15 $$":   "signal: terminated",
		"kill -SEGV $$": "panic or fault (signal: segmentation fault), requests under way: 3",
		"kill -BUS $$":  "panic or fault (signal: bus error), requests under way: 3",
		"kill -ABRT $$": "panic or fault (signal: aborted), requests under way: 3",
	} {
		err := exec.Command("sh", "-c", "ulimit -c 0; "+script).Run()
		require.Equal(t, want, howEnded(err, 3))
		require.Equal(t, strings.HasPrefix(want, "panic"), crashed(err))
	}
	require.False(t, crashed(nil))
	require.False(t, crashed(refusedBy("the store is in use")))
}
