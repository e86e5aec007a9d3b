package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Monitor gives QEMU one command of its machine protocol and returns the answer.
func (g *Guest) Monitor(command string, arguments map[string]any) (json.RawMessage, error) {
	return g.MonitorAt(g.MonitorPath(), command, arguments)
}

// MonitorAt is Monitor on another socket, which Config.Args made.
func (g *Guest) MonitorAt(path, command string, arguments map[string]any) (json.RawMessage, error) {
	answer, err := Command(path, command, arguments)
	if err != nil {
		return nil, fmt.Errorf("guest %s: monitor command %s: %w", g.cfg.Name, command, err)
	}
	return answer, nil
}

// Command is Monitor for whatever program of QEMU's speaks its protocol on a socket.
func Command(path, command string, arguments map[string]any) (json.RawMessage, error) {
	conn, dec, err := converse(path, time.Now().Add(time.Minute))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return execute(conn, dec, command, arguments)
}

// converse connects and gets past the greeting. The deadline, if there is one, is
// for all of the conversation.
func converse(path string, deadline time.Time) (net.Conn, *json.Decoder, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, nil, err
	}
	dec := json.NewDecoder(conn)
	if err = conn.SetDeadline(deadline); err == nil {
		err = dec.Decode(&struct{}{})
	}
	if err == nil {
		_, err = execute(conn, dec, "qmp_capabilities", nil)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, dec, nil
}

// execute sends a command and waits for its answer, past events.
func execute(conn net.Conn, dec *json.Decoder, command string, arguments map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return nil, err
	}
	for {
		var m struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := dec.Decode(&m); err != nil {
			return nil, err
		}
		if m.Error != nil {
			return nil, errors.New(m.Error.Desc)
		}
		if m.Return != nil {
			return m.Return, nil
		}
	}
}
