package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// guestAgent is a guest agent behind a unix socket that does as a test says.
type guestAgent struct {
	path string

	mu       sync.Mutex
	on       map[string]func() string // what a command answers, instead of what an agent would
	frozen   bool
	commands []string // but for those that keep in step
}

func newAgent(t *testing.T) *guestAgent {
	dir, err := os.MkdirTemp("", "agent") // a socket's path has to be short
	require.NoError(t, err)
	a := &guestAgent{path: filepath.Join(dir, "agent"), on: make(map[string]func() string)}
	l, err := net.Listen("unix", a.path)
	require.NoError(t, err)
	var serving sync.WaitGroup
	var conns []net.Conn
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, conn)
			serving.Go(func() { a.serve(conn) })
		}
		for _, c := range conns {
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	return a
}

func (a *guestAgent) serve(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var c struct {
			Execute   string
			Arguments struct{ ID json.RawMessage }
		}
		if json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "\xff")), &c) != nil {
			continue
		}
		if c.Execute == "guest-sync-delimited" {
			fmt.Fprintf(conn, "\xff{\"return\": %s}\n", c.Arguments.ID)
			continue
		}
		if answer := a.answer(c.Execute); answer != "" {
			fmt.Fprintln(conn, answer)
		}
	}
}

func (a *guestAgent) answer(command string) string {
	a.mu.Lock()
	a.commands = append(a.commands, command)
	instead := a.on[command]
	a.mu.Unlock()
	if instead != nil {
		return instead()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch command {
	case "guest-fsfreeze-status":
		return map[bool]string{false: `{"return": "thawed"}`, true: `{"return": "frozen"}`}[a.frozen]
	case "guest-fsfreeze-freeze":
		a.frozen = true
		return `{"return": 2}`
	case "guest-fsfreeze-thaw":
		if !a.frozen {
			return `{"return": 0}`
		}
		a.frozen = false
		return `{"return": 2}`
	case "guest-info":
		return `{"return": {"version": "7.2.22", "supported_commands": [` +
			`{"name": "guest-fsfreeze-freeze", "enabled": true}, {"name": "guest-fsfreeze-thaw", "enabled": true}]}}`
	case "guest-get-fsinfo":
		return `{"return": [{"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 1048576, "total-bytes": 4194304}]}`
	}
	return `{"error": {"class": "CommandNotFound", "desc": "no such command"}}`
}

// answers makes a command answer something else.
func (a *guestAgent) answers(command string, with func() string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.on[command] = with
}

// asked are the commands that came, but for those that only ask.
func (a *guestAgent) asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var acts []string
	for _, c := range a.commands {
		if c == "guest-fsfreeze-freeze" || c == "guest-fsfreeze-thaw" {
			acts = append(acts, strings.TrimPrefix(c, "guest-fsfreeze-"))
		}
	}
	return acts
}

func (a *guestAgent) isFrozen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen
}
