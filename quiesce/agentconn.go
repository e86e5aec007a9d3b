package quiesce

// A guest agent behind a socket. The stream goes through a serial port that nobody resets when the host hangs up, so a
// new connection may begin with the rest of what an earlier one asked for. It is brought into step like this:
//
//	host   0xFF {"execute":"guest-sync-delimited","arguments":{"id":N}} LF
//	agent  anything, then 0xFF {"return": N} LF
//
// The first 0xFF makes the agent forget half a command that it may have read, and answer that with an error; the second
// one marks where the host's reading starts.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
)

const (
	delimiter = 0xFF

	// maxSync bounds an answer to guest-sync-delimited, in bytes.
	maxSync = 256
)

// agentConn connects when it is called, and again after everything that may have brought the stream out of step.
type agentConn struct {
	path string
	s    *stream // nil: none, or out of step
}

func (c *agentConn) connect(ctx context.Context) error {
	return c.converse(ctx, func(s *stream, fresh bool) error {
		if !fresh {
			return nil
		}
		return s.sync(nil)
	})
}

// call sends a command and reads its answer. On a fresh connection the agent has to show that it is in step before it
// gets the command, lest one that hangs freezes its guest when nobody waits for that any more; an urgent command does
// not wait, as one that hangs shall find it when it goes on.
func (c *agentConn) call(ctx context.Context, cmd command) (value json.RawMessage, err error) {
	if cmd.file != nil {
		return nil, errors.New("a guest agent takes no descriptors")
	}
	message, err := encode(request{Execute: cmd.name, Arguments: cmd.args})
	if err != nil {
		return nil, err
	}
	err = c.converse(ctx, func(s *stream, fresh bool) error {
		if err := s.ask(message, fresh, cmd.urgent); err != nil {
			return err
		}
		value, err = s.answer()
		return err
	})
	return value, err
}

// converse runs f on a connection until the context's end, and hangs up if the stream may be out of step then.
func (c *agentConn) converse(ctx context.Context, f func(s *stream, fresh bool) error) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	fresh := c.s == nil
	if fresh {
		s, err := dial(ctx, c.path)
		if err != nil {
			return ended(ctx, err)
		}
		c.s = s
	}
	release := c.s.bind(ctx)
	err := f(c.s, fresh)
	release()
	if err != nil && !answered(err) {
		c.close()
	}
	return ended(ctx, err)
}

// sync brings the stream into step. What is urgent goes out along with the question.
func (s *stream) sync(urgent []byte) error {
	id := rand.Int64N(1 << 53)
	if err := s.send(append(syncMessage(id), urgent...), nil); err != nil {
		return err
	}
	return s.awaitSync(id)
}

func (s *stream) ask(message []byte, fresh, urgent bool) error {
	if fresh && urgent {
		return s.sync(message)
	}
	if fresh {
		if err := s.sync(nil); err != nil {
			return err
		}
	}
	return s.send(message, nil)
}

// answer reads the next line as the answer to a command.
func (s *stream) answer() (json.RawMessage, error) {
	line, err := s.line()
	if err != nil {
		return nil, err
	}
	r, err := parseReply(line)
	if err != nil {
		return nil, err
	}
	return r.value()
}

func syncMessage(id int64) []byte {
	return []byte("\xff" + `{"execute":"guest-sync-delimited","arguments":{"id":` + strconv.FormatInt(id, 10) + "}}\n")
}

// awaitSync drops everything up to and with the answer to the sync of that id.
func (s *stream) awaitSync(id int64) error {
	want := strconv.AppendInt(nil, id, 10)
	var line []byte
	delimited := false
	for {
		b, err := s.r.ReadByte()
		switch {
		case err != nil:
			return err
		case b == delimiter:
			delimited, line = true, line[:0]
		case !delimited:
		case b == '\n':
			if bytes.Contains(line, want) && returns(line, id) { // parsing every line of a flood would cost
				return nil
			}
			delimited = false
		case len(line) == maxSync:
			delimited = false
		default:
			line = append(line, b)
		}
	}
}

func returns(line []byte, id int64) bool {
	var r struct {
		Return *int64 `json:"return"`
	}
	return json.Unmarshal(line, &r) == nil && r.Return != nil && *r.Return == id
}

func (c *agentConn) close() {
	if c.s != nil {
		c.s.close()
		c.s = nil
	}
}
