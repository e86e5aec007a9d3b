package main

// QEMU's machine protocol, as far as it is needed.

import (
	"encoding/json"
	"net"
	"slices"

	"github.com/stretchr/testify/require"
)

// qmp is a connection to a QEMU program.
type qmp struct {
	s    *scope
	conn net.Conn
	dec  *json.Decoder
	past []string // events read while waiting for an answer
}

// dialQMP connects to the socket of a program that has just been started.
func dialQMP(s *scope, path string) *qmp {
	q := &qmp{s: s}
	await(s, path, func() bool {
		conn, err := net.Dial("unix", path)
		q.conn = conn
		return err == nil
	})
	q.dec = json.NewDecoder(q.conn)
	require.NoError(s, q.dec.Decode(&struct{}{})) // the greeting
	q.command("qmp_capabilities", nil)
	return q
}

// command has something done, waits until it is, and returns the answer.
func (q *qmp) command(name string, arguments map[string]any) json.RawMessage {
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	require.NoError(q.s, json.NewEncoder(q.conn).Encode(request))
	for {
		m := q.read()
		if m.Event != "" {
			q.past = append(q.past, m.Event)
		}
		require.Nil(q.s, m.Error, "%s %v: %+v", name, arguments, m.Error)
		if m.Return != nil {
			return m.Return
		}
	}
}

// awaitEvent waits for an event, unless there was one already.
func (q *qmp) awaitEvent(name string) {
	for !slices.Contains(q.past, name) {
		q.past = append(q.past, q.read().Event)
	}
}

type qmpMessage struct {
	Return json.RawMessage
	Event  string
	Error  *struct{ Desc string }
}

func (q *qmp) read() (m qmpMessage) {
	require.NoError(q.s, q.dec.Decode(&m))
	return m
}
