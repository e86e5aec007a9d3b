package quiesce

// The QEMU guest agent's commands.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Agent is a guest's QEMU guest agent. One goroutine at a time may use it. A context without a deadline is given one of
// 10 s. Errors are an [Error]: ETIMEDOUT for no answer, EIO otherwise, with a [CommandError] for what the agent answered.
type Agent struct {
	address string
	peer    peer
}

// DialAgent reaches the agent at an address, as [CheckAddress] says, and brings the connection into step.
func DialAgent(ctx context.Context, address string) (*Agent, error) {
	a := openAgent(address)
	if err := a.peer.connect(ctx); err != nil {
		a.Close()
		return nil, failed(err, "guest agent %s", address)
	}
	return a, nil
}

// openAgent does nothing yet: the first call connects.
func openAgent(address string) *Agent {
	if domain, ok := strings.CutPrefix(address, libvirtPrefix); ok {
		return &Agent{address: address, peer: &virsh{verb: "qemu-agent-command", domain: domain}}
	}
	return &Agent{address: address, peer: &agentConn{path: address}}
}

// Close hangs up.
func (a *Agent) Close() { a.peer.close() }

func (a *Agent) call(ctx context.Context, c command, into any) error {
	value, err := a.peer.call(ctx, c)
	if err == nil && into != nil {
		if err = json.Unmarshal(value, into); err != nil {
			err = fmt.Errorf("garbage for an answer: %.60q", value)
		}
	}
	if err != nil {
		return failed(err, "guest agent %s: %s", a.address, c.name)
	}
	return nil
}

// AgentInfo is what an agent is.
type AgentInfo struct {
	Version  string   `json:"version"`
	Commands []string `json:"commands"` // those that are enabled
}

// Info asks for the agent's version and commands.
func (a *Agent) Info(ctx context.Context) (AgentInfo, error) {
	var answer struct {
		Version  string `json:"version"`
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := a.call(ctx, command{name: "guest-info"}, &answer); err != nil {
		return AgentInfo{}, err
	}
	info := AgentInfo{Version: printable(answer.Version)}
	for _, c := range answer.Commands {
		if c.Enabled {
			info.Commands = append(info.Commands, c.Name)
		}
	}
	return info, nil
}

// FSInfo is a file system that a guest has mounted.
type FSInfo struct {
	Name       string `json:"name"` // of its block device in the guest
	Mountpoint string `json:"mountpoint"`
	Type       string `json:"type"`
	Used       int64  `json:"used-bytes"`
	Total      int64  `json:"total-bytes"`
}

// FileSystems are those that the guest has mounted.
func (a *Agent) FileSystems(ctx context.Context) ([]FSInfo, error) {
	var all []FSInfo
	err := a.call(ctx, command{name: "guest-get-fsinfo"}, &all)
	for i := range all {
		f := &all[i]
		f.Name, f.Mountpoint, f.Type = printable(f.Name), printable(f.Mountpoint), printable(f.Type)
	}
	return all, err
}

// Freeze freezes the file systems at the mountpoints, all if there are none, and returns how many it froze. That none
// was frozen is an error, and so is a count below zero. Whatever it returns, Thaw has to follow.
func (a *Agent) Freeze(ctx context.Context, mountpoints []string) (int, error) {
	c := command{name: "guest-fsfreeze-freeze"}
	if len(mountpoints) > 0 {
		c.name = "guest-fsfreeze-freeze-list"
		c.args = map[string]any{"mountpoints": mountpoints}
	}
	n, err := a.count(ctx, c)
	if err == nil && n == 0 {
		err = failed(errors.New("it froze no file system"), "guest agent %s: %s", a.address, c.name)
	}
	return n, err
}

// Thaw thaws all file systems and returns how many those were. It is sent without waiting for a sign of life: an agent
// that hangs finds it when it goes on.
func (a *Agent) Thaw(ctx context.Context) (int, error) {
	return a.count(ctx, command{name: "guest-fsfreeze-thaw", urgent: true})
}

func (a *Agent) count(ctx context.Context, c command) (int, error) {
	var n *int
	err := a.call(ctx, c, &n)
	if err == nil && (n == nil || *n < 0) {
		err = failed(errors.New("garbage for a count"), "guest agent %s: %s", a.address, c.name)
	}
	if err != nil {
		return 0, err
	}
	return *n, nil
}

// Frozen says whether file systems of the guest are frozen, by whomever.
func (a *Agent) Frozen(ctx context.Context) (bool, error) {
	const name = "guest-fsfreeze-status"
	var status string
	if err := a.call(ctx, command{name: name}, &status); err != nil {
		return false, err
	}
	switch status {
	case "frozen":
		return true, nil
	case "thawed":
		return false, nil
	}
	return false, failed(fmt.Errorf("garbage for a status: %.60q", status), "guest agent %s: %s", a.address, name)
}
