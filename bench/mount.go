package main

// The program under test: started, asked, and ended with the scope.

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/integration/daemon"
)

// mount is a store that a daemon serves.
type mount struct {
	*daemon.Daemon
	s          *scope
	peer       peer // the program's name in tables
	program    string
	store, dir string
	taken      int // snapshots that had no name of their own
}

// newMount serves a store, new or not, until the scope ends.
func newMount(s *scope, p program, store string) *mount {
	m := &mount{s: s, peer: p.peer, program: p.path, store: store, dir: s.temp()}
	m.serve()
	s.cleanup(m.umount)
	return m
}

func (m *mount) serve() {
	m.Daemon = daemon.StartProgram(m.s, m.program, m.store, m.dir)
}

// remount has the store served by a new daemon.
func (m *mount) remount() {
	m.umount()
	m.serve()
}

// umount ends the daemon; more than once is fine.
func (m *mount) umount() {
	if m.Daemon == nil {
		return
	}
	d := m.Daemon
	m.Daemon = nil
	out, err := exec.Command(m.program, "umount", m.dir).CombinedOutput()
	require.NoError(m.s, err, "umount: %s", out)
	<-d.Exited
	require.True(m.s, d.Cmd.ProcessState.Success(), "%v: %s", d.Cmd.ProcessState, d.Stderr)
}

// path is a path in the mount.
func (m *mount) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// vm makes a VM.
func (m *mount) vm(name string) {
	require.NoError(m.s, os.Mkdir(m.path(name), 0o755))
}

// snapshot takes one, and returns how long that took.
func (m *mount) snapshot(vm, name string) time.Duration {
	return m.command(vm, "create", name)
}

// another takes one more, and returns how long that took.
func (m *mount) another(vm string) time.Duration {
	m.taken++
	return m.snapshot(vm, fmt.Sprintf("more%d", m.taken))
}

// command writes a line to a control file of a VM and returns how long that took.
func (m *mount) command(vm, control, line string) time.Duration {
	f, err := os.OpenFile(m.path(vm, ".snapshots", control), os.O_WRONLY, 0)
	require.NoError(m.s, err)
	defer f.Close()
	began := time.Now()
	_, err = f.WriteString(line)
	require.NoError(m.s, err, "%s %s", control, line)
	return time.Since(began)
}

// status is a part of what `status` says of the mount.
type status struct {
	Layers        int   `json:"layers"`
	RetiredLayers int   `json:"retired_layers"`
	UnsummedBytes int64 `json:"unsummed_bytes"`
	LayerBytes    int64 `json:"layer_bytes"`
	ReclaimBytes  int64 `json:"reclaim_bytes"`
}

func (m *mount) status() (st status) {
	text, err := os.ReadFile(m.path(".snapshots", "status"))
	require.NoError(m.s, err)
	require.NoError(m.s, json.Unmarshal(text, &st))
	return st
}

// awaitReclaimed waits until all space is given back of what was deleted.
func (m *mount) awaitReclaimed() {
	await(m.s, "space to be given back", func() bool {
		st := m.status()
		return st.RetiredLayers == 0 && st.ReclaimBytes == 0
	})
}

// awaitSummed waits until all snapshots have their checksums, of which the daemon reads them once; heads have so many bytes, and none.
func (m *mount) awaitSummed(heads int64) {
	await(m.s, "checksums", func() bool { return m.status().UnsummedBytes <= heads })
}

// anonymous is how much anonymous memory its processes use, in bytes.
func (m *mount) anonymous() int64 { return anonymous(m.s, m.Worker(), m.Cmd.Process.Pid) }
