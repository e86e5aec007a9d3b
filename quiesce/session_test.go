package quiesce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// short is a timeout for what is meant to run into it.
const short = Duration(200 * time.Millisecond)

// goodAgent freezes and thaws two file systems. A test changes some of its answers.
func goodAgent(t *testing.T, changes map[string]answer) *scripted {
	answers := map[string]answer{
		"guest-fsfreeze-status": returning(`"thawed"`),
		"guest-fsfreeze-freeze": returning("2"),
		"guest-fsfreeze-thaw":   returning("2"),
	}
	maps.Copy(answers, changes)
	return listen(t, &scripted{answers: answers})
}

// taken is what came of one session.
type taken struct {
	Outcome
	err    error // of Start or Hold
	swaps  int
	marked *Held // what is written down in the end
}

// take goes through a session as a snapshot does.
func take(t *testing.T, r Request, swap func() error) taken {
	var got taken
	r.Mark = func(h *Held) error {
		got.marked = h
		return nil
	}
	s, err := New(r)
	require.NoError(t, err)
	if got.err = s.Start(context.Background()); got.err == nil {
		got.err = s.Hold(context.Background(), func() error {
			got.swaps++
			if swap == nil {
				return nil
			}
			return swap()
		})
	}
	require.LessOrEqual(t, got.swaps, 1)
	got.Outcome = s.End(context.Background())
	require.Equal(t, got.Outcome, s.End(context.Background()), "End can be called again")
	require.NotContains(t, got.Warning, "\n")
	return got
}

func agentPolicy(mode Mode, p *scripted, timeout Duration) Policy {
	policy := DefaultPolicy()
	policy.Mode, policy.Agent, policy.Timeout = mode, p.path, timeout
	return policy
}

func running(p Policy) Request { return Request{Policy: p, VM: "web", Snapshot: "one", Running: true} }

const long = Duration(MaxTimeout)

// A guest that behaves is frozen while the swap runs, and at no other time.
func TestFrozen(t *testing.T) {
	p := goodAgent(t, nil)
	got := take(t, running(agentPolicy(ModeAgent, p, long)), func() error {
		require.Equal(t, []string{"guest-fsfreeze-status", "guest-fsfreeze-freeze"}, p.seen())
		return nil
	})
	require.NoError(t, got.err)
	require.Equal(t, FileSystem, got.Consistency)
	require.Empty(t, got.Warning)
	require.True(t, got.Swapped)
	require.Positive(t, got.Paused)
	require.Nil(t, got.marked)
	require.Equal(t, []string{"guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}, p.seen())
	require.Equal(t, 1, p.connections())
}

// Chosen mountpoints go with the command.
func TestMountpoints(t *testing.T) {
	var args json.RawMessage
	p := goodAgent(t, map[string]answer{"guest-fsfreeze-freeze-list": func(c *client, a json.RawMessage) {
		args = a
		c.say(`{"return": 2}`)
	}})
	policy := agentPolicy(ModeAgent, p, long)
	policy.Mountpoints = []string{"/", "/srv"}
	require.Equal(t, FileSystem, take(t, running(policy), nil).Consistency)
	require.JSONEq(t, `{"mountpoints": ["/", "/srv"]}`, string(args))
}

// A guest that does not run is left alone, and so is every guest in mode none.
func TestLeftAlone(t *testing.T) {
	p := goodAgent(t, nil)
	r := running(agentPolicy(ModeAgent, p, long))
	r.Running = false
	got := take(t, r, nil)
	require.NoError(t, got.err)
	require.Equal(t, Off, got.Consistency)
	got = take(t, running(agentPolicy(ModeNone, p, long)), nil)
	require.NoError(t, got.err)
	require.Equal(t, Crash, got.Consistency)
	require.Empty(t, p.seen())
}

// What freeze does badly fails the snapshot before the swap, or costs it its label; the guest is thawed anyway.
func TestBadFreeze(t *testing.T) {
	flood := func(c *client, _ json.RawMessage) { _, _ = c.Write(bytes.Repeat([]byte("garbage "), 10<<20/8)) }
	for name, test := range map[string]struct {
		freeze  answer
		errno   syscall.Errno
		timeout Duration
	}{
		"refuses":       {failing("GenericError"), syscall.EIO, long},
		"nothing":       {returning("0"), syscall.EIO, long},
		"negative":      {returning("-2"), syscall.EIO, long},
		"huge":          {returning("1e300"), syscall.EIO, long},
		"no number":     {returning(`"2"`), syscall.EIO, long},
		"null":          {returning("null"), syscall.EIO, long},
		"neither":       {says("{}"), syscall.EIO, long},
		"garbage":       {says("\x00\xff}{"), syscall.EIO, long},
		"nesting":       {says(string(bytes.Repeat([]byte("["), 100_000))), syscall.EIO, long},
		"10 MB":         {flood, syscall.EIO, long},
		"hangs up":      {hangUp, syscall.EIO, long},
		"never answers": {silence, syscall.ETIMEDOUT, short},
		"half a line":   {func(c *client, _ json.RawMessage) { _, _ = c.Write([]byte(`{"return"`)) }, syscall.ETIMEDOUT, short},
	} {
		t.Run(name, func(t *testing.T) {
			p := goodAgent(t, map[string]answer{"guest-fsfreeze-freeze": test.freeze})
			got := take(t, running(agentPolicy(ModeAgent, p, test.timeout)), nil)
			require.ErrorIs(t, got.err, test.errno)
			require.Zero(t, got.swaps)
			require.Nil(t, got.Held)
			require.Nil(t, got.marked)
			require.Equal(t, "guest-fsfreeze-thaw", p.seen()[2])

			p.commands = nil
			got = take(t, running(agentPolicy(ModeAgentOrCrash, p, test.timeout)), nil)
			require.NoError(t, got.err)
			require.True(t, got.Swapped)
			require.Equal(t, Crash, got.Consistency)
			require.Contains(t, got.Warning, "not quiesced")
			require.Equal(t, "guest-fsfreeze-thaw", p.seen()[2])
		})
	}
}

// An agent that cannot be brought into step is never asked to freeze.
func TestOutOfStep(t *testing.T) {
	endless := func(c *client, _ json.RawMessage) {
		for {
			if _, err := c.Write(bytes.Repeat([]byte("\xff{\"return\": 1}\n"), 1000)); err != nil {
				return
			}
		}
	}
	for name, test := range map[string]struct {
		sync  answer
		errno syscall.Errno
	}{
		"never answers": {silence, syscall.ETIMEDOUT},
		"no delimiter":  {returning("1"), syscall.ETIMEDOUT},
		"other ids":     {endless, syscall.ETIMEDOUT},
		"hangs up":      {hangUp, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			p := goodAgent(t, map[string]answer{"guest-sync-delimited": test.sync})
			got := take(t, running(agentPolicy(ModeAgent, p, short)), nil)
			require.ErrorIs(t, got.err, test.errno)
			require.Zero(t, got.swaps)
			got = take(t, running(agentPolicy(ModeAgentOrCrash, p, short)), nil)
			require.NoError(t, got.err)
			require.Equal(t, Crash, got.Consistency)
			require.Empty(t, p.seen())
		})
	}
}

// What lies in the stream from before is passed over.
func TestStaleAnswers(t *testing.T) {
	p := goodAgent(t, map[string]answer{"guest-sync-delimited": func(c *client, args json.RawMessage) {
		_, _ = c.Write(bytes.Repeat([]byte("0123456789\n"), 1<<20))
		c.say("\xff{\"return\": 4711}")
		c.say(`{"return": 17}`)
		_, _ = c.Write([]byte("\xff{\"retu"))
		inStep(c, args)
	}})
	got := take(t, running(agentPolicy(ModeAgent, p, long)), nil)
	require.NoError(t, got.err)
	require.Equal(t, FileSystem, got.Consistency)
}

// The answer to freeze that comes after its time is not taken for that of thaw, and thaw reaches an agent that still
// works on freeze.
func TestLateFreeze(t *testing.T) {
	hung := make(chan struct{})
	p := goodAgent(t, map[string]answer{
		"guest-fsfreeze-freeze": func(c *client, _ json.RawMessage) {
			<-hung
			c.say(`{"return": 2}`)
		},
		"guest-fsfreeze-thaw": func(c *client, _ json.RawMessage) {
			close(hung)
			c.say(`{"return": 1}`)
		},
	})
	got := take(t, running(agentPolicy(ModeAgent, p, short)), nil)
	require.ErrorIs(t, got.err, syscall.ETIMEDOUT)
	require.Nil(t, got.Held)
	require.Equal(t, []string{"guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}, p.seen())
	require.Equal(t, 2, p.connections())
}

// A guest that moved while it should have been frozen gets no better label than crash.
func TestMoved(t *testing.T) {
	for name, thaw := range map[string]answer{
		"fewer":  returning("1"),
		"more":   returning("3"),
		"none":   returning("0"),
		"VSS":    failing("GenericError"),
		"absent": nil,
	} {
		t.Run(name, func(t *testing.T) {
			p := goodAgent(t, map[string]answer{"guest-fsfreeze-thaw": thaw})
			policy := agentPolicy(ModeAgent, p, long)
			policy.GuestHooks = true
			got := take(t, running(policy), nil)
			require.NoError(t, got.err)
			require.Equal(t, Crash, got.Consistency)
			require.Contains(t, got.Warning, "not frozen all the time")
			require.Nil(t, got.marked)
		})
	}
}

// Thaw is sent again, on a new connection, if the old one gave no proper answer.
func TestThawAgain(t *testing.T) {
	for name, bad := range map[string]answer{"hangs up": hangUp, "garbage": says("garbage"), "lies": returning("-1")} {
		t.Run(name, func(t *testing.T) {
			p := goodAgent(t, map[string]answer{"guest-fsfreeze-thaw": inTurn(bad, returning("2"))})
			got := take(t, running(agentPolicy(ModeAgent, p, long)), nil)
			require.NoError(t, got.err)
			require.Equal(t, FileSystem, got.Consistency)
			require.Equal(t, []string{"guest-fsfreeze-thaw", "guest-fsfreeze-thaw"}, p.seen()[2:])
		})
	}
}

// A thaw that says it failed while the guest stays frozen is no thaw.
func TestStillFrozen(t *testing.T) {
	p := goodAgent(t, map[string]answer{
		"guest-fsfreeze-status": inTurn(returning(`"thawed"`), returning(`"frozen"`)),
		"guest-fsfreeze-thaw":   inTurn(failing("GenericError"), returning("2")),
	})
	got := take(t, running(agentPolicy(ModeAgent, p, long)), nil)
	require.NoError(t, got.err)
	require.Equal(t, FileSystem, got.Consistency)
}

// A guest that cannot be thawed stays written down, and Release thaws it when it can be.
func TestNeverThawed(t *testing.T) {
	p := goodAgent(t, map[string]answer{"guest-fsfreeze-thaw": silence})
	for _, mode := range []Mode{ModeAgent, ModeAgentOrCrash} {
		got := take(t, running(agentPolicy(mode, p, short)), nil)
		require.True(t, got.Swapped)
		require.Equal(t, Crash, got.Consistency)
		require.Equal(t, &Held{Agent: p.path}, got.Held)
		require.Equal(t, got.Held, got.marked)
		if mode == ModeAgent {
			require.ErrorIs(t, got.err, syscall.ETIMEDOUT)
		} else {
			require.NoError(t, got.err)
			require.Contains(t, got.Warning, "may still be held")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(short))
	defer cancel()
	require.ErrorIs(t, Release(ctx, Held{Agent: p.path}), syscall.ETIMEDOUT)
	p2 := goodAgent(t, map[string]answer{"guest-fsfreeze-thaw": inTurn(hangUp, returning("2"))})
	require.NoError(t, Release(context.Background(), Held{Agent: p2.path}))
	require.NoError(t, Release(context.Background(), Held{Agent: p2.path + "-gone"}), "a guest that does not run is not frozen")
}

// A guest does not stay frozen for a swap that takes too long.
func TestSlowSwap(t *testing.T) {
	for _, mode := range []Mode{ModeAgent, ModeAgentOrCrash} {
		thawed := make(chan struct{})
		p := goodAgent(t, map[string]answer{"guest-fsfreeze-thaw": func(c *client, _ json.RawMessage) {
			close(thawed)
			c.say(`{"return": 2}`)
		}})
		got := take(t, running(agentPolicy(mode, p, short)), func() error {
			<-thawed
			return nil
		})
		require.True(t, got.Swapped)
		require.Equal(t, Crash, got.Consistency)
		if mode == ModeAgent {
			require.ErrorIs(t, got.err, syscall.ETIMEDOUT)
		} else {
			require.NoError(t, got.err)
			require.NotEmpty(t, got.Warning)
		}
	}
}

// A swap that fails is thawed after and not tried again; its error comes back as it is.
func TestFailingSwap(t *testing.T) {
	bad := errors.New("no swap")
	for _, mode := range []Mode{ModeNone, ModeAgent, ModeAgentOrCrash} {
		p := goodAgent(t, nil)
		got := take(t, running(agentPolicy(mode, p, long)), func() error { return bad })
		require.Equal(t, bad, got.err)
		require.False(t, got.Swapped)
		require.Equal(t, mode != ModeNone, slices.Contains(p.seen(), "guest-fsfreeze-thaw"))
	}
}

// Who somebody else froze is neither frozen nor thawed.
func TestFrozenAlready(t *testing.T) {
	p := goodAgent(t, map[string]answer{"guest-fsfreeze-status": returning(`"frozen"`)})
	got := take(t, running(agentPolicy(ModeAgent, p, long)), nil)
	require.ErrorIs(t, got.err, syscall.EIO)
	require.ErrorContains(t, got.err, "frozen already")
	require.Equal(t, []string{"guest-fsfreeze-status"}, p.seen())
}

// It is written down who is going to be frozen before that is asked for, or it is not asked for.
func TestMark(t *testing.T) {
	p := goodAgent(t, nil)
	r := running(agentPolicy(ModeAgent, p, long))
	r.Mark = func(h *Held) error {
		if h != nil {
			require.NotContains(t, p.seen(), "guest-fsfreeze-freeze")
			require.Equal(t, Held{Agent: p.path}, *h)
		} else {
			require.Contains(t, p.seen(), "guest-fsfreeze-thaw")
		}
		return errors.New("the disk is full")
	}
	s, err := New(r)
	require.NoError(t, err)
	require.NoError(t, s.Start(context.Background()))
	require.ErrorIs(t, s.Hold(context.Background(), func() error { return nil }), syscall.EIO)
	require.False(t, s.End(context.Background()).Swapped)
	require.NotContains(t, p.seen(), "guest-fsfreeze-freeze")
}

// That it cannot be taken back is said, and costs nothing else.
func TestUnmark(t *testing.T) {
	r := running(agentPolicy(ModeAgent, goodAgent(t, nil), long))
	r.Mark = func(h *Held) error {
		if h == nil {
			return errors.New("the disk is full")
		}
		return nil
	}
	s, err := New(r)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Hold(t.Context(), func() error { return nil }))
	o := s.End(t.Context())
	require.Equal(t, FileSystem, o.Consistency)
	require.Contains(t, o.Warning, "the disk is full")
}

// A socket with many waiting before it is waited for until the time is over.
func TestCrowdedSocket(t *testing.T) {
	path := filepath.Join(socketDir(t), "agent")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer syscall.Close(fd)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	require.NoError(t, syscall.Listen(fd, 0))
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			require.ErrorIs(t, err, syscall.EAGAIN)
			break
		}
		defer conn.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(short))
	defer cancel()
	_, err = DialAgent(ctx, path)
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
}

// A caller that gives up leaves no guest frozen.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := goodAgent(t, map[string]answer{"guest-fsfreeze-freeze": func(*client, json.RawMessage) { cancel() }})
	s, err := New(running(agentPolicy(ModeAgent, p, long)))
	require.NoError(t, err)
	require.NoError(t, s.Start(ctx))
	require.ErrorIs(t, s.Hold(ctx, func() error { return nil }), context.Canceled)
	o := s.End(ctx)
	require.False(t, o.Swapped)
	require.Nil(t, o.Held)
	require.Contains(t, p.seen(), "guest-fsfreeze-thaw")
}

// A guest that dies while it is frozen is not waited for.
func TestGuestDies(t *testing.T) {
	p := goodAgent(t, nil)
	got := take(t, running(agentPolicy(ModeAgent, p, long)), func() error {
		p.die(t)
		return nil
	})
	require.NoError(t, got.err)
	require.Equal(t, Crash, got.Consistency)
	require.Nil(t, got.Held)
	require.Nil(t, got.marked)
}

// Nobody listens, or there is no such socket.
func TestNoAgent(t *testing.T) {
	p := goodAgent(t, nil)
	policy := agentPolicy(ModeAgent, p, long)
	policy.Agent += "-gone"
	got := take(t, running(policy), nil)
	require.ErrorIs(t, got.err, syscall.EIO)
	var errno syscall.Errno
	require.ErrorAs(t, got.err, &errno)
	require.Equal(t, syscall.EIO, errno, "not that of the failed connect")
}
