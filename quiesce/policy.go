package quiesce

// The "quiesce" part of a VM's policy.

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"time"
)

// Mode is what is done to the guest.
type Mode string

const (
	ModeNone         Mode = "none"           // nothing
	ModeAgent        Mode = "agent"          // its agent freezes its file systems, or there is no snapshot
	ModeAgentOrCrash Mode = "agent-or-crash" // the same, or the snapshot is taken as it is and says so
	ModePause        Mode = "pause"          // its virtual CPUs are stopped
)

// MaxTimeout is the longest frozen window, and the default: VSS thaws by itself after that.
const MaxTimeout = 10 * time.Second

// Policy is how a VM's guest is quiesced.
type Policy struct {
	Mode        Mode     `json:"mode"`
	Agent       string   `json:"agent"` // an address, see CheckAddress
	QMP         string   `json:"qmp"`   // the same
	Timeout     Duration `json:"timeout"`
	Mountpoints []string `json:"mountpoints"` // those to freeze; none: all
	GuestHooks  bool     `json:"guest_hooks"` // the operator asserts that the agent's own hooks quiesce the applications
	Pre         []string `json:"pre"`         // scripts' absolute paths, in the order in which they run
	Post        []string `json:"post"`
}

// DefaultPolicy is what a policy without this part says; a document is read over it.
func DefaultPolicy() Policy {
	return Policy{
		Mode: ModeNone, Timeout: Duration(MaxTimeout),
		Mountpoints: []string{}, Pre: []string{}, Post: []string{}, // in JSON [], not null
	}
}

// Check says what is wrong with a policy: EINVAL.
func (p Policy) Check() error {
	switch p.Mode {
	case ModeNone:
	case ModeAgent, ModeAgentOrCrash:
		if p.Agent == "" {
			return invalid("quiesce.mode %s needs quiesce.agent", p.Mode)
		}
	case ModePause:
		if p.QMP == "" {
			return invalid("quiesce.mode pause needs quiesce.qmp")
		}
	default:
		return invalid("quiesce.mode %q is none of none, agent, agent-or-crash, pause", p.Mode)
	}
	for _, address := range []string{p.Agent, p.QMP} {
		if address == "" {
			continue
		}
		if err := CheckAddress(address); err != nil {
			return err
		}
	}
	if t := time.Duration(p.Timeout); t <= 0 || t > MaxTimeout {
		return invalid("quiesce.timeout %v is not within 0s and %v", t, MaxTimeout)
	}
	for _, path := range slices.Concat(p.Pre, p.Post) {
		if !filepath.IsAbs(path) {
			return invalid("script %q in quiesce is not an absolute path", path)
		}
	}
	return nil
}

// Duration is written as "10s" in JSON.
type Duration time.Duration

// MarshalJSON writes it as [time.Duration.String] does.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads what [time.ParseDuration] does; EINVAL.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return invalid("%s is not a duration like \"10s\"", b)
	}
	t, err := time.ParseDuration(text)
	if err != nil {
		return invalid("%q is not a duration like \"10s\"", text)
	}
	*d = Duration(t)
	return nil
}
