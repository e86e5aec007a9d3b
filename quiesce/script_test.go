package quiesce

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scripts writes shell scripts, all of which note in a log that they ran.
type scripts struct {
	t   *testing.T
	dir string
}

func newScripts(t *testing.T) *scripts { return &scripts{t, t.TempDir()} }

// add gives the path of a script that goes on with the body.
func (s *scripts) add(name, body string) string {
	path := filepath.Join(s.dir, name)
	text := fmt.Sprintf("#!/bin/sh\necho %s $# $SNAPFS_VM $SNAPFS_SNAPSHOT $SNAPFS_TYPE >>%s/log\n%s\n", name, s.dir, body)
	require.NoError(s.t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

// ran are the scripts that did, and empties the log.
func (s *scripts) ran() []string {
	path := filepath.Join(s.dir, "log")
	log, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(s.t, err)
	require.NoError(s.t, os.Remove(path))
	var names []string
	for line := range strings.Lines(string(log)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		require.Equal(s.t, "0 web one copy", rest)
		names = append(names, name)
	}
	return names
}

func (s *scripts) policy(pre, post string) Policy {
	p := DefaultPolicy()
	p.Pre = []string{s.add("db", ""), s.add("web", pre)}
	p.Post = []string{s.add("web-up", ""), s.add("db-up", post)}
	return p
}

// Scripts run in order around the snapshot, whatever the mode; alone they do not make it better than crash.
func TestScripts(t *testing.T) {
	s := newScripts(t)
	for _, run := range []bool{true, false} {
		r := running(s.policy("", ""))
		r.Running = run
		got := take(t, r, func() error {
			require.Equal(t, []string{"db", "web"}, s.ran())
			return nil
		})
		require.NoError(t, got.err)
		require.Equal(t, []string{"web-up", "db-up"}, s.ran())
		require.Equal(t, map[bool]string{true: Crash, false: Off}[run], got.Consistency)
	}
}

// With a frozen guest, scripts that all succeed make a snapshot application-consistent, and so does the operator's word.
func TestApplication(t *testing.T) {
	s := newScripts(t)
	for _, test := range []struct {
		name, post string
		guestHooks bool
		hooks      []string
		label      string
	}{
		{"all succeed", "", false, nil, Application},
		{"one fails", "exit 3", false, nil, FileSystem},
		{"asserted", "", true, nil, Application},
		{"chosen", "", false, []string{"db"}, Application},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := s.policy("", test.post)
			agent := agentPolicy(ModeAgent, goodAgent(t, nil), long)
			p.Mode, p.Agent, p.GuestHooks = agent.Mode, agent.Agent, test.guestHooks
			r := running(p)
			r.Hooks = test.hooks
			got := take(t, r, nil)
			require.NoError(t, got.err)
			require.Equal(t, test.label, got.Consistency)
			require.Equal(t, test.post != "", strings.Contains(got.Warning, "db-up"))
		})
	}
}

// A pre script that fails ends it there, with what it said; the post scripts run all the same.
func TestFailingPre(t *testing.T) {
	s := newScripts(t)
	for name, pre := range map[string]string{
		"fails": "echo starting; echo the database is on fire >&2; exit 3",
		"dies":  "echo the database is on fire >&2; kill -9 $$",
	} {
		t.Run(name, func(t *testing.T) {
			p := s.policy(pre, "")
			p.Pre = append(p.Pre, s.add("never", ""))
			p.Mode, p.Agent = ModeAgentOrCrash, "/nowhere"
			got := take(t, running(p), nil)
			require.ErrorIs(t, got.err, syscall.EIO)
			require.ErrorContains(t, got.err, "the database is on fire")
			require.NotContains(t, got.err.Error(), "starting")
			require.Equal(t, []string{"db", "web", "web-up", "db-up"}, s.ran())
		})
	}
	p := DefaultPolicy()
	p.Pre = []string{"/nowhere/script"}
	require.ErrorIs(t, take(t, running(p), nil).err, syscall.EIO)
}

// A script that takes too long is killed, with everything it started.
func TestScriptTime(t *testing.T) {
	s := newScripts(t)
	hold := filepath.Join(s.dir, "hold")
	require.NoError(t, syscall.Mkfifo(hold, 0o600))
	// Both hold the pipe open; once they are killed, reading it ends.
	path := s.add("hangs", fmt.Sprintf("exec 3>%s; sleep 1000 & sleep 1000", hold))
	reader, err := os.OpenFile(hold, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer reader.Close()
	err = runScript(context.Background(), path, scriptEnv("web", "one"), time.Duration(short))
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	require.ErrorContains(t, err, "killed after")
	require.NoError(t, reader.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = reader.Read(make([]byte, 1))
	require.ErrorContains(t, err, "EOF")
}

// What a script prints costs no memory, and a child that it leaves behind does not hold the snapshot up.
func TestScriptOutput(t *testing.T) {
	s := newScripts(t)
	path := s.add("loud", "head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2; sleep 1000 & echo $! >"+s.dir+"/pid")
	stdout, stderr, err := process{path: path, keep: 1000}.run(context.Background())
	require.NoError(t, err)
	require.Equal(t, make([]byte, 1000), stdout)
	require.Equal(t, make([]byte, 1000), stderr)
	text, err := os.ReadFile(filepath.Join(s.dir, "pid"))
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL), "it was left alone")
}

// Hooks choose scripts by base name; one that chooses none is refused.
func TestHooks(t *testing.T) {
	s := newScripts(t)
	r := running(s.policy("", ""))
	r.Hooks = []string{"web", "db-up"}
	require.NoError(t, take(t, r, nil).err)
	require.Equal(t, []string{"web", "db-up"}, s.ran())
	for _, hook := range []string{"dbs", "", s.dir + "/db"} {
		r.Hooks = []string{"web", hook}
		_, err := New(r)
		require.ErrorIs(t, err, syscall.EINVAL, hook)
	}
}

// The scripts that end what others begin are written down before those, until they have run, also beside a guest that is
// held.
func TestOwedScripts(t *testing.T) {
	s := newScripts(t)
	p := s.policy("", "")
	agent := goodAgent(t, nil)
	p.Mode, p.Agent, p.Timeout = ModeAgent, agent.path, long
	r := running(p)
	var marks []Held
	r.Mark = func(h *Held) error {
		if h == nil {
			h = new(Held)
		}
		marks = append(marks, *h)
		return nil
	}
	session, err := New(r)
	require.NoError(t, err)
	owed := Held{Post: p.Post, VM: "web", Snapshot: "one"}
	held := owed
	held.Agent = agent.path
	require.NoError(t, session.Start(t.Context()))
	require.Equal(t, []Held{owed}, marks)
	require.NoError(t, session.Hold(t.Context(), func() error {
		require.Equal(t, []Held{owed, held}, marks)
		return nil
	}))
	session.End(t.Context())
	require.Equal(t, []Held{owed, held, owed, {}}, marks)
	require.Equal(t, []string{"db", "web", "web-up", "db-up"}, s.ran())

	require.NoError(t, Release(t.Context(), owed), "nobody is held")
	p.Post = append(p.Post, s.add("last", "exit 3"))
	owed.Post = []string{p.Post[2], p.Post[1]}
	require.ErrorContains(t, RunPost(t.Context(), owed), "last: exit status 3")
	require.Equal(t, []string{"last", "db-up"}, s.ran())

	r.Mark = func(*Held) error { return errors.New("the disk is full") }
	session, err = New(r)
	require.NoError(t, err)
	require.ErrorIs(t, session.Start(t.Context()), syscall.EIO)
	require.Empty(t, s.ran())
}
