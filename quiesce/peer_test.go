package quiesce

// A scripted agent or monitor behind a unix socket, whose answers a test chooses.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client is a connection to a scripted peer.
type client struct {
	net.Conn
	peer *scripted
	id   string // of the command that is being answered
}

// say writes a line.
func (c *client) say(format string, args ...any) { _, _ = fmt.Fprintf(c, format+"\n", args...) }

// answer is how a scripted peer reacts to a command.
type answer func(c *client, args json.RawMessage)

// says answers with a line.
func says(line string) answer { return func(c *client, _ json.RawMessage) { c.say("%s", line) } }

// returning and failing answer as the peer does that they are for: a monitor repeats the id.
func returning(value string) answer { return replying(`"return": ` + value) }

func failing(class string) answer {
	return replying(`"error": {"class": "` + class + `", "desc": "it says no"}`)
}

func replying(members string) answer {
	return func(c *client, _ json.RawMessage) {
		if c.peer.ids {
			c.say(`{%s, "id": %s}`, members, c.id)
		} else {
			c.say("{%s}", members)
		}
	}
}

// silence never answers.
func silence(*client, json.RawMessage) {}

// hangUp drops the connection.
func hangUp(c *client, _ json.RawMessage) { _ = c.Close() }

// inTurn answers one after another; the last one from then on.
func inTurn(answers ...answer) answer {
	var mu sync.Mutex
	return func(c *client, args json.RawMessage) {
		mu.Lock()
		now := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		now(c, args)
	}
}

// scripted is a peer that does as it is told.
type scripted struct {
	path    string
	ids     bool
	answers map[string]answer // by command, "greeting" unasked; those it does not name are answered with CommandNotFound

	listener net.Listener
	mu       sync.Mutex
	commands []string // as they came, without synchronisation
	clients  []*client
}

// listen serves until the test ends. It also checks that the test leaves no goroutine behind.
func listen(t *testing.T, p *scripted) *scripted {
	before := runtime.NumGoroutine()
	dir, err := os.MkdirTemp("", "quiesce") // a socket's path has to be short
	require.NoError(t, err)
	p.path = filepath.Join(dir, "peer")
	l, err := net.Listen("unix", p.path)
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := &client{Conn: conn, peer: p}
			p.mu.Lock()
			p.clients = append(p.clients, c)
			p.mu.Unlock()
			serving.Go(c.serve)
		}
	})
	p.listener = l
	t.Cleanup(func() {
		p.die(t)
		serving.Wait()
		require.NoError(t, os.RemoveAll(dir))
		for tries := 0; runtime.NumGoroutine() > before; tries++ {
			require.Less(t, tries, 1000, "a goroutine is left behind")
			time.Sleep(10 * time.Millisecond)
		}
	})
	return p
}

// die ends all connections, and there are no new ones.
func (p *scripted) die(t *testing.T) {
	if err := p.listener.Close(); err != nil {
		require.ErrorIs(t, err, net.ErrClosed)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		_ = c.Close()
	}
}

func (c *client) serve() {
	defer c.Close()
	if greet := c.peer.answers["greeting"]; greet != nil {
		greet(c, nil)
	}
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		line, delimited := bytes.CutPrefix(lines.Bytes(), []byte{delimiter})
		if delimited { // qemu-ga does the same
			c.say(`{"error": {"class": "GenericError", "desc": "JSON parse error, stray '\u00ff'"}}`)
		}
		var r struct {
			Execute   string
			Arguments json.RawMessage
			ID        json.RawMessage
		}
		if json.Unmarshal(line, &r) != nil {
			c.say(`{"error": {"class": "GenericError", "desc": "JSON parse error"}}`)
			continue
		}
		c.id = string(r.ID)
		c.react(r.Execute, r.Arguments)
	}
}

func (c *client) react(name string, args json.RawMessage) {
	react := c.peer.answers[name]
	if react == nil && name == "guest-sync-delimited" {
		react = inStep
	}
	if name != "guest-sync-delimited" {
		c.peer.mu.Lock()
		c.peer.commands = append(c.peer.commands, name)
		c.peer.mu.Unlock()
	}
	if react == nil {
		react = failing("CommandNotFound")
	}
	react(c, args)
}

// inStep answers guest-sync-delimited as it should be.
func inStep(c *client, args json.RawMessage) {
	var sync struct{ ID json.RawMessage }
	_ = json.Unmarshal(args, &sync)
	_, _ = c.Write([]byte{delimiter})
	c.say(`{"return": %s}`, sync.ID)
}

// seen are the commands that came.
func (p *scripted) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.commands)
}

// connections is how many clients there have been.
func (p *scripted) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.clients)
}
