package layer

// Policy: what an operator wants of a VM's snapshots. It is one JSON document a VM; what it leaves out is as
// DefaultPolicy has it.

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/robfig/cron/v3"

	"github.com/snapfs/snapfs/blockmap"
)

// Policy of a VM. A limit of 0 is none.
type Policy struct {
	Quiesce   QuiescePolicy `json:"quiesce"`
	Exclude   []string      `json:"exclude"`   // files that snapshots, reverts and previews leave alone
	Shareable []string      `json:"shareable"` // files that others write too: no snapshot is made of them
	Limit     LimitPolicy   `json:"limit"`
	Schedule  string        `json:"schedule"` // cron syntax, local time; empty: none
	Keep      KeepPolicy    `json:"keep"`
}

// QuiescePolicy says how a guest is brought to rest.
type QuiescePolicy struct {
	Mode        string   `json:"mode"`  // none, agent, agent-or-crash, pause
	Agent       string   `json:"agent"` // a unix socket's path, or libvirt:DOMAIN
	QMP         string   `json:"qmp"`   // likewise
	Timeout     string   `json:"timeout"`
	Mountpoints []string `json:"mountpoints"`
	GuestHooks  bool     `json:"guest_hooks"`
	Pre         []string `json:"pre"`
	Post        []string `json:"post"`
}

// LimitPolicy refuses new snapshots, never a guest's write.
type LimitPolicy struct {
	Snapshots int    `json:"snapshots"`
	Bytes     string `json:"bytes"` // in sealed layers
	Age       string `json:"age"`   // of the oldest snapshot: a warning only
}

// KeepPolicy says how many of the snapshots stay that reverts, commits and the schedule made.
type KeepPolicy struct {
	Undo    int `json:"undo"`
	Hourly  int `json:"hourly"`
	Daily   int `json:"daily"`
	Weekly  int `json:"weekly"`
	Monthly int `json:"monthly"`
}

// MaxFreeze is the longest a guest may be frozen: what VSS allows.
const MaxFreeze = 10 * time.Second

// DefaultPolicy is that of a VM that none was set for.
func DefaultPolicy() Policy {
	return Policy{
		Quiesce: QuiescePolicy{Mode: "none", Timeout: "10s", Mountpoints: []string{}, Pre: []string{}, Post: []string{}},
		Exclude: []string{}, Shareable: []string{}, Limit: LimitPolicy{Bytes: "0", Age: "0"}, Keep: KeepPolicy{Undo: 3},
	}
}

// ParsePolicy reads a policy's document; EINVAL with what is wrong.
func ParsePolicy(document []byte) (Policy, error) {
	p := DefaultPolicy()
	d := json.NewDecoder(bytes.NewReader(document))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Policy{}, Errorf(syscall.EINVAL, "policy: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Policy{}, Errorf(syscall.EINVAL, "policy: something follows the document")
	}
	for _, list := range []*[]string{&p.Exclude, &p.Shareable, &p.Quiesce.Mountpoints, &p.Quiesce.Pre, &p.Quiesce.Post} {
		if *list == nil { // from null
			*list = []string{}
		}
	}
	return p, p.check()
}

func (p *Policy) check() error {
	for _, err := range []error{p.Quiesce.check(), p.Limit.check(), p.Keep.check(), checkFiles("exclude", p.Exclude), checkFiles("shareable", p.Shareable)} {
		if err != nil {
			return err
		}
	}
	if p.Schedule != "" {
		if _, err := cron.ParseStandard(p.Schedule); err != nil {
			return Errorf(syscall.EINVAL, "policy: schedule %q: %w", p.Schedule, err)
		}
	}
	return nil
}

func checkFiles(key string, names []string) error {
	for _, name := range names {
		if err := CheckName(NameFile, name); err != nil {
			return Errorf(syscall.EINVAL, "policy: %s: %w", key, err)
		}
	}
	return nil
}

func (q *QuiescePolicy) check() error {
	bad := func(format string, args ...any) error {
		return Errorf(syscall.EINVAL, "policy: quiesce."+format, args...)
	}
	switch q.Mode {
	case "none":
	case "agent", "agent-or-crash":
		if q.Agent == "" {
			return bad("mode %s needs quiesce.agent: the socket of the guest agent", q.Mode)
		}
	case "pause":
		if q.QMP == "" {
			return bad("mode pause needs quiesce.qmp: QEMU's QMP socket")
		}
	default:
		return bad("mode %q: it is none, agent, agent-or-crash or pause", q.Mode)
	}
	if t, err := time.ParseDuration(q.Timeout); err != nil || t <= 0 || t > MaxFreeze {
		return bad("timeout %q: a guest is frozen for more than 0s and at most %s", q.Timeout, MaxFreeze)
	}
	for key, address := range map[string]string{"agent": q.Agent, "qmp": q.QMP} {
		domain, libvirt := strings.CutPrefix(address, "libvirt:")
		if address != "" && !filepath.IsAbs(address) && (!libvirt || domain == "") {
			return bad("%s %q: it is a unix socket's absolute path or libvirt:DOMAIN", key, address)
		}
	}
	for _, path := range slices.Concat(q.Pre, q.Post, q.Mountpoints) {
		if !filepath.IsAbs(path) {
			return bad("pre, post and mountpoints have absolute paths; %q is not", path)
		}
	}
	return nil
}

// MaxFrozen is how long the guest may be frozen.
func (q QuiescePolicy) MaxFrozen() time.Duration {
	t, _ := time.ParseDuration(q.Timeout)
	return t
}

func (l *LimitPolicy) check() error {
	if l.Snapshots < 0 {
		return Errorf(syscall.EINVAL, "policy: limit.snapshots %d is negative", l.Snapshots)
	}
	if _, err := humanize.ParseBytes(l.Bytes); err != nil {
		return Errorf(syscall.EINVAL, "policy: limit.bytes %q is not a size such as 20GiB", l.Bytes)
	}
	if age, err := time.ParseDuration(l.Age); err != nil || age < 0 {
		return Errorf(syscall.EINVAL, "policy: limit.age %q is not a duration such as 72h", l.Age)
	}
	return nil
}

func (k *KeepPolicy) check() error {
	for _, n := range []int{k.Undo, k.Hourly, k.Daily, k.Weekly, k.Monthly} {
		if n < 0 {
			return Errorf(syscall.EINVAL, "policy: keep has a negative count")
		}
	}
	return nil
}

// Policy is the VM's.
func (v *VM) Policy() Policy {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.policy
}

// SetPolicy makes a checked policy the VM's, durably.
func (v *VM) SetPolicy(p Policy) error {
	if err := p.check(); err != nil {
		return err
	}
	v.op.Lock()
	defer v.op.Unlock()
	if err := v.present(""); err != nil {
		return err
	}
	err := v.store.update(func(tx *blockmap.Tx) error { put(tx, catalogKey(tablePolicy, v.id), p); return nil })
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.policy = p
	return nil
}

// checkLimits is EDQUOT where the policy allows no further snapshot. What reverts and commits kept counts for none.
func (v *VM) checkLimits() error {
	p := v.Policy()
	limit, _ := humanize.ParseBytes(p.Limit.Bytes)
	if p.Limit.Snapshots == 0 && limit == 0 {
		return nil
	}
	var count int
	var bytes int64
	for _, n := range v.Snapshots() {
		info := n.Info()
		bytes += info.Unique
		if !n.Undo {
			count++
		}
	}
	if p.Limit.Snapshots > 0 && count >= p.Limit.Snapshots {
		return Errorf(syscall.EDQUOT, "VM %q has %d snapshots, and its policy allows %d; delete one", v.Name(), count, p.Limit.Snapshots)
	}
	if limit > 0 && uint64(bytes) >= limit {
		return Errorf(syscall.EDQUOT, "the snapshots of VM %q take %s, and its policy allows %s; delete one", v.Name(), humanize.IBytes(uint64(bytes)), humanize.IBytes(limit))
	}
	return nil
}

// overAge is why a VM is not as its policy wants it, as far as the age of its snapshots goes.
func (v *VM) overAge() []string {
	limit, _ := time.ParseDuration(v.Policy().Limit.Age)
	var reasons []string
	for _, n := range v.Snapshots() {
		if age := time.Since(n.Created()); limit > 0 && age > limit && !n.Undo {
			reasons = append(reasons, "snapshot "+n.Name()+" is older than "+limit.String())
		}
	}
	return reasons
}
