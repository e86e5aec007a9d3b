package quiesce

// Checking that a guest could be quiesced, without doing it.

import (
	"context"
	"slices"
	"time"
)

// Report is what a check found; a part is nil if the policy names no address for it.
type Report struct {
	Agent *AgentReport `json:"agent"`
	QMP   *QMPReport   `json:"qmp"`
}

// AgentReport is what a guest agent says of itself and its guest.
type AgentReport struct {
	Version     string   `json:"version"`
	Freeze      bool     `json:"freeze"`      // it can freeze and thaw
	FreezeList  bool     `json:"freeze_list"` // it can freeze chosen mountpoints
	Frozen      bool     `json:"frozen"`      // somebody has frozen it
	FileSystems []FSInfo `json:"filesystems"`
}

// QMPReport is what a monitor says.
type QMPReport struct {
	Version string `json:"version"`
	RunState
}

// Check reaches whom the policy names, within its timeout each, and asks what they can do. It freezes and stops nothing.
func Check(ctx context.Context, p Policy) (r Report, err error) {
	if p.Agent != "" {
		if r.Agent, err = checkAgent(ctx, p); err != nil {
			return r, err
		}
	}
	if p.QMP != "" {
		r.QMP, err = checkQMP(ctx, p)
	}
	return r, err
}

// Reach says why a guest that runs could not be brought to rest now: nobody answers, or it is frozen already. It
// freezes and stops nothing. ETIMEDOUT, EIO.
func Reach(ctx context.Context, p Policy) error {
	s := &Session{req: Request{Policy: p, Running: true}}
	defer s.hangUp()
	return s.reach(ctx)
}

func checkAgent(ctx context.Context, p Policy) (*AgentReport, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout))
	defer cancel()
	a, err := DialAgent(ctx, p.Agent)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	info, err := a.Info(ctx)
	if err != nil {
		return nil, err
	}
	r := &AgentReport{
		Version:     info.Version,
		Freeze:      slices.Contains(info.Commands, "guest-fsfreeze-freeze") && slices.Contains(info.Commands, "guest-fsfreeze-thaw"),
		FreezeList:  slices.Contains(info.Commands, "guest-fsfreeze-freeze-list"),
		FileSystems: []FSInfo{},
	}
	// A frozen guest answers no question but this one.
	if r.Frozen, err = a.Frozen(ctx); r.Frozen || (err != nil && !answered(err)) {
		return r, err
	}
	if list, err := a.FileSystems(ctx); err == nil {
		r.FileSystems = list
	} else if !answered(err) {
		return nil, err
	}
	return r, nil
}

func checkQMP(ctx context.Context, p Policy) (*QMPReport, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout))
	defer cancel()
	q, err := DialQMP(ctx, p.QMP)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	version, err := q.Version(ctx)
	if err != nil {
		return nil, err
	}
	state, err := q.Status(ctx)
	return &QMPReport{Version: version, RunState: state}, err
}
