package quiesce

// A monitor behind a socket. It greets, is told to leave negotiation, and from then on answers each command with the
// id that it came with, and reports events in between.

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
)

type qmpConn struct {
	path   string
	s      *stream // nil: none, or out of step
	lastID int64
}

func (c *qmpConn) connect(ctx context.Context) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	if c.s != nil {
		return nil
	}
	s, err := dial(ctx, c.path)
	if err != nil {
		return ended(ctx, err)
	}
	c.s = s
	release := s.bind(ctx)
	err = c.greet()
	release()
	if err != nil {
		c.close()
	}
	return ended(ctx, err)
}

// greet waits for the greeting. A monitor serves one client: who comes second hears nothing.
func (c *qmpConn) greet() error {
	line, err := c.s.line()
	if err != nil {
		return err
	}
	r, err := parseReply(line)
	switch {
	case err != nil:
		return err
	case r.QMP == nil:
		return errors.New("it does not greet as a QMP monitor does")
	}
	_, err = c.exchange(command{name: "qmp_capabilities"})
	return err
}

func (c *qmpConn) call(ctx context.Context, cmd command) (json.RawMessage, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	release := c.s.bind(ctx)
	value, err := c.exchange(cmd)
	release()
	if err != nil && !answered(err) {
		c.close()
	}
	return value, ended(ctx, err)
}

func (c *qmpConn) exchange(cmd command) (json.RawMessage, error) {
	c.lastID++
	message, err := encode(request{Execute: cmd.name, Arguments: cmd.args, ID: c.lastID})
	if err != nil {
		return nil, err
	}
	if err := c.s.send(message, cmd.file); err != nil {
		return nil, err
	}
	id := strconv.FormatInt(c.lastID, 10)
	for {
		line, err := c.s.line()
		if err != nil {
			return nil, err
		}
		r, err := parseReply(line)
		switch {
		case err != nil:
			return nil, err
		case r.Event != "": // nobody here waits for one
		case string(r.ID) == id, r.ID == nil && r.Error != nil: // an error without id: it could not read the command
			return r.value()
		}
	}
}

func (c *qmpConn) close() {
	if c.s != nil {
		c.s.close()
		c.s = nil
	}
}
