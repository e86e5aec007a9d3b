package quiesce

// A stream of JSON lines over a unix socket: what agent and monitor have in common.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// maxLine bounds the memory that an answer can cost, in bytes. A query-block of 200 disks is about 200 KiB.
	maxLine = 1 << 20

	// callTime is the deadline of calls whose context has none.
	callTime = 10 * time.Second

	// redialTime is how long to wait before asking a socket again whose queue of connections is full.
	redialTime = 10 * time.Millisecond
)

var errLongLine = fmt.Errorf("an answer of more than %d bytes", maxLine)

// command is what a peer is to do.
type command struct {
	name   string
	args   any      // what "arguments" is marshalled from; nil: none
	file   *os.File // goes along as a descriptor
	urgent bool     // must reach the peer even if that does not answer now
}

// peer is who takes commands: an agent or a monitor, over a socket or through virsh.
type peer interface {
	// connect makes sure that the peer is there and in step, which call does too.
	connect(ctx context.Context) error
	// call gives what the peer returned. A *CommandError is what it answered; after any other error the next call
	// starts on a new connection.
	call(ctx context.Context, c command) (json.RawMessage, error)
	close()
}

// request is a command on the wire.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        int64  `json:"id,omitempty"`
}

// reply is a line from a peer, of any kind.
type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID    json.RawMessage `json:"id"`
	Event string          `json:"event"`
	QMP   json.RawMessage `json:"QMP"`
}

func parseReply(line []byte) (reply, error) {
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{}, fmt.Errorf("garbage for an answer: %.60q", line)
	}
	return r, nil
}

// value is what the reply returns, or the error that it is.
func (r reply) value() (json.RawMessage, error) {
	switch {
	case r.Error != nil:
		return nil, &CommandError{Class: printable(r.Error.Class), Desc: printable(r.Error.Desc)}
	case r.Return == nil:
		return nil, errors.New("an answer that returns nothing")
	}
	return r.Return, nil
}

// stream is a connection. Its calls block until the deadline of the context it is bound to.
type stream struct {
	conn net.Conn
	r    *bufio.Reader
}

func newStream(conn net.Conn) *stream {
	return &stream{conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}
}

func dial(ctx context.Context, path string) (*stream, error) {
	for {
		conn, err := connect(ctx, path)
		if err == nil {
			return newStream(conn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select { // many are waiting for the peer: it serves one after another
		case <-time.After(redialTime):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// connect gives up at the context's end also if the kernel still looks for the path, on a file system that hangs.
func connect(ctx context.Context, path string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	tried := make(chan result, 1)
	go func() {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		tried <- result{conn, err}
	}()
	select {
	case r := <-tried:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-tried; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// bind makes the context's end that of every read and write, until release is called.
func (s *stream) bind(ctx context.Context) (release func()) {
	deadline, _ := ctx.Deadline()
	_ = s.conn.SetDeadline(deadline)
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = s.conn.SetDeadline(time.Unix(1, 0))
		close(fired)
	})
	return func() {
		if !stop() {
			<-fired
		}
	}
}

// line reads up to a newline; empty lines are passed over. The bytes are valid until the next read.
func (s *stream) line() ([]byte, error) {
	var long []byte
	for {
		part, err := s.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if err == nil && long == nil {
			if len(bytes.TrimSpace(part)) > 0 {
				return part, nil
			}
			continue
		}
		if len(long)+len(part) > maxLine {
			return nil, errLongLine
		}
		long = append(long, part...)
		if err == nil {
			return long, nil
		}
	}
}

// send writes a message, with a descriptor if there is one.
func (s *stream) send(message []byte, file *os.File) error {
	if file == nil {
		_, err := s.conn.Write(message)
		return err
	}
	conn, ok := s.conn.(*net.UnixConn)
	if !ok {
		return errors.New("descriptors go over unix sockets only")
	}
	n, _, err := conn.WriteMsgUnix(message, syscall.UnixRights(int(file.Fd())), nil)
	if err == nil && n < len(message) {
		_, err = conn.Write(message[n:])
	}
	return err
}

func (s *stream) close() { _ = s.conn.Close() }

// withDeadline gives a context a deadline if it has none, so that no call waits for ever.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTime)
}

// ended is why a call failed: the end of its context rather than what that did to the connection.
func ended(ctx context.Context, err error) error {
	if err != nil && !answered(err) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func encode(r request) ([]byte, error) {
	b, err := json.Marshal(r)
	return append(b, '\n'), err
}
