package quiesce

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// canned is a connection whose other end has said all it will say.
type canned struct {
	net.Conn
	io.Reader
}

func (c canned) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c canned) Write(p []byte) (int, error) { return len(p), nil }
func (c canned) SetDeadline(time.Time) error { return nil }
func (c canned) Close() error                { return nil }

func saying(data []byte) *stream { return newStream(canned{Reader: bytes.NewReader(data)}) }

// FuzzAgent reads what an agent might answer: a value that makes sense or an error, whatever it is.
func FuzzAgent(f *testing.F) {
	for _, seed := range []string{
		`{"return": 2}`, `{"return": 0}`, `{"return": -1}`, `{"return": 1.5}`, `{"return": null}`, `{"return": "frozen"}`,
		`{"return": {"version": "7.2", "supported_commands": [{"name": "guest-info", "enabled": true}]}}`,
		`{"return": [{"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 1, "total-bytes": 2}]}`,
		`{"error": {"class": "CommandNotFound", "desc": "a\nb\u001b[2J"}}`, `{"error": null}`, `{"return": 1, "error": {}}`,
		"\xff{\"return\": 7}\n{\"return\": 2}", "\xff\xff\n\n", "{", "", "[]",
	} {
		f.Add([]byte(seed + "\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		agent := func() *Agent { return &Agent{peer: &agentConn{path: "/nowhere", s: saying(data)}} }
		n, err := agent().Freeze(t.Context(), nil)
		require.True(t, (err == nil) == (n > 0))
		sane(t, err)
		n, err = agent().Thaw(t.Context())
		require.GreaterOrEqual(t, n, 0)
		sane(t, err)
		_, err = agent().Frozen(t.Context())
		sane(t, err)
		info, err := agent().Info(t.Context())
		require.Equal(t, printable(info.Version), info.Version)
		sane(t, err)
		_, err = agent().FileSystems(t.Context())
		sane(t, err)
		if saying(data).awaitSync(7) == nil {
			require.Contains(t, string(data), "\xff")
			require.Contains(t, string(data), "7")
		}
	})
}

// FuzzQMP does the same to a monitor, from its greeting on.
func FuzzQMP(f *testing.F) {
	for _, seed := range []string{
		`{"return": {"running": true, "status": "running"}, "id": 2}`,
		`{"event": "STOP"}` + "\n" + `{"return": {}, "id": 2}`,
		`{"return": [{"device": "d", "inserted": {"file": "json:{\"file\": {\"filename\": \"/x\"}}", "ro": true}}], "id": 2}`,
		`{"return": [{}, null, {"inserted": null}], "id": 2}`,
		`{"return": {"status": "active", "ram": {"dirty-sync-count": 1}}, "id": 2}`,
		`{"error": {"class": "GenericError", "desc": "no"}}`,
		`{"return": {"qemu": {"major": 7}}, "id": 2}`,
	} {
		f.Add([]byte("{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n" + seed + "\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		monitor := func() *QMP {
			c := &qmpConn{path: "/nowhere", s: saying(data)}
			if c.greet() != nil {
				c.close()
			}
			return &QMP{peer: c}
		}
		_, err := monitor().Status(t.Context())
		sane(t, err)
		_, err = monitor().Version(t.Context())
		sane(t, err)
		m, err := monitor().Machine(t.Context())
		sane(t, err)
		_, _ = m.Disks()
		_, _ = m.RunState()
		_ = m.RAM()
		_, err = monitor().migration(t.Context())
		sane(t, err)
	})
}

// sane checks that an error is one line with an errno that a file may give.
func sane(t *testing.T, err error) {
	if err == nil {
		return
	}
	var errno syscall.Errno
	require.ErrorAs(t, err, &errno)
	require.Contains(t, []syscall.Errno{syscall.EIO, syscall.ETIMEDOUT}, errno)
	require.NotContains(t, err.Error(), "\n")
	require.NotContains(t, err.Error(), "\x1b")
}

// endless repeats a text for a while.
type endless struct {
	text string
	left int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n+len(e.text) <= len(p) {
		n += copy(p[n:], e.text)
	}
	e.left -= n
	return n, nil
}

// However much comes, it costs little memory.
func TestMemoryBound(t *testing.T) {
	const much, little = 12 << 20, 8 << 20
	for name, text := range map[string]string{
		"zeros":      "\x00",
		"delimiters": "\xff",
		"lines":      "garbage\n",
		"answers":    "\xff{\"return\": 1}\n",
		"events":     `{"event": "RTC_CHANGE"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := newStream(canned{Reader: &endless{text, much}}).awaitSync(7)
			require.ErrorIs(t, err, io.EOF)
			if name != "events" { // of those, one after another makes garbage
				q := &qmpConn{path: "/nowhere", s: newStream(canned{Reader: &endless{text, much}})}
				_, err = q.call(context.Background(), command{name: "stop"})
				require.Error(t, err)
			}
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(little))
		})
	}
}

// What guests and virsh say fits into one line of a log.
func TestPrintable(t *testing.T) {
	require.Equal(t, "a b [2Jc", printable("a\nb\x1b[2Jc\n"))
	require.Equal(t, "größe", printable("größe"))
	require.Equal(t, 200+len("…"), len(printable(string(bytes.Repeat([]byte("x"), 1000)))))
	require.Equal(t, "�", printable("\xff"))
}
