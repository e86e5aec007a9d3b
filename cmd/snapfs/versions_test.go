package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A version of the program says with the end of its file how it differs.
type programVersion string

const (
	asItIs         programVersion = "                    "
	hangs          programVersion = "its workers hang    "
	cantTakeOver   programVersion = "can't take over     "
	diesAtRequests programVersion = "dies at any request "
	diesAtOnce     programVersion = "ends as a supervisor"
	hangsAtOnce    programVersion = "hangs as supervisor "
)

// diesAtStart names a file of so many bytes as workers are to die when they start; others follow at once, also if there is none.
const diesAtStart = "SNAPFS_TEST_DIES"

// guardsFor is how long guards wait, if it is set.
const guardsFor = "SNAPFS_TEST_GUARD"

// beAsBuilt makes a process what its program's version says, and what the test wants of all versions.
func beAsBuilt() {
	isWorker := os.Getenv(workerEnv) != ""
	if d, err := time.ParseDuration(os.Getenv(guardsFor)); err == nil {
		guardTime = d
	}
	switch versionOf("/proc/self/exe") {
	case hangs:
		trialTime = time.Second
		if isWorker {
			select {}
		}
	case cantTakeOver:
		if os.Getenv(keptEnv) != "" {
			panic("what was kept makes no sense")
		}
	case diesAtOnce:
		if supervises() {
			os.Exit(exitFailed)
		}
	case hangsAtOnce:
		if supervises() {
			select {}
		}
	case diesAtRequests:
		requestFault = func([]byte) { panic("a request") }
	}
	if path, set := os.LookupEnv(diesAtStart); set {
		startPauses = []time.Duration{1, 2, 3, 4}
		if st, err := os.Stat(path); isWorker && err == nil && st.Size() > 0 {
			_ = os.Truncate(path, st.Size()-1)
			os.Exit(exitFailed)
		}
	}
}

// supervises says whether a process is a supervisor that was another program, and not one that is only tried.
func supervises() bool {
	return os.Getenv(keptEnv) != "" && os.Getenv(guardEnv) == "" && !slices.Contains(os.Args, "--"+tryFlag)
}

func versionOf(program string) programVersion {
	f, err := os.Open(program)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.Seek(-int64(len(asItIs)), io.SeekEnd); err != nil {
		panic(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		panic(err)
	}
	return programVersion(text)
}

// install puts a version in a program's place, as a package manager does.
func install(t *testing.T, program string, v programVersion) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program+".new", append(self, v...), 0o755))
	require.NoError(t, os.Rename(program+".new", program))
}

// newInstalled mounts a new store with a program that can be replaced, a VM in it.
func newInstalled(t *testing.T) (program, store, point string) {
	t.Helper()
	dir := t.TempDir()
	program, store, point = filepath.Join(dir, "snapfs"), filepath.Join(dir, "store"), filepath.Join(dir, "mnt")
	install(t, program, asItIs)
	require.NoError(t, os.Mkdir(point, 0o755))
	out, err := exec.Command(program, "mount", store, point).CombinedOutput()
	require.NoError(t, err, "%s", out)
	unmountAtEnd(t, point)
	newVM(t, point, "web", "hello")
	return program, store, point
}
