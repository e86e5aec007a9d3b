package layer

// Policy: what an operator wants of a VM's snapshots. It is one JSON document a VM; what it leaves out is as
// DefaultPolicy has it.

import (
	"errors"
	"fmt"
	"math"
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

// ParsePolicy reads a policy's document; EINVAL with the key and what is wrong with it.
func ParsePolicy(document []byte) (Policy, error) {
	p := DefaultPolicy()
	if err := readStrictly(document, &p); err != nil {
		return Policy{}, Errorf(syscall.EINVAL, "policy: %w", err)
	}
	return p, p.check()
}

func (p *Policy) check() error {
	for _, err := range []error{
		p.Quiesce.check(), checkFiles("exclude", p.Exclude), checkFiles("shareable", p.Shareable), p.Limit.check(),
		checkSchedule(p.Schedule), p.Keep.check(),
	} {
		if err != nil {
			return Errorf(syscall.EINVAL, "policy: %w", err)
		}
	}
	return nil
}

func checkFiles(key string, names []string) error {
	for i, name := range names {
		if err := CheckName(NameFile, name); err != nil {
			return fmt.Errorf("%s[%d]: %w", key, i, err)
		}
	}
	return nil
}

// checkSchedule refuses, too, what is in cron's syntax and never comes, as the 31st of February.
func checkSchedule(spec string) error {
	switch {
	case spec == "":
		return nil
	case strings.Contains(spec, "="): // TZ=…: the parser panics where nothing follows
		return fmt.Errorf("schedule: %q: a schedule is in local time", spec)
	}
	plan, err := cron.ParseStandard(spec)
	if err != nil {
		return fmt.Errorf(`schedule: %q is not in cron's syntax, as "30 3 * * *" is: %w`, spec, err)
	}
	if plan.Next(time.Now()).IsZero() {
		return fmt.Errorf("schedule: %q never comes", spec)
	}
	if every, ok := plan.(cron.ConstantDelaySchedule); ok && every.Delay < time.Minute {
		return fmt.Errorf("schedule: %q is more often than every minute", spec)
	}
	return nil
}

func (q *QuiescePolicy) check() error {
	switch q.Mode {
	case "none":
	case "agent", "agent-or-crash":
		if q.Agent == "" {
			return fmt.Errorf("quiesce.mode: %s needs quiesce.agent, the socket of the guest agent", q.Mode)
		}
	case "pause":
		if q.QMP == "" {
			return errors.New("quiesce.mode: pause needs quiesce.qmp, QEMU's QMP socket")
		}
	default:
		return fmt.Errorf("quiesce.mode: %q is none of none, agent, agent-or-crash, pause", q.Mode)
	}
	if t, err := time.ParseDuration(q.Timeout); err != nil || t <= 0 || t > MaxFreeze {
		return fmt.Errorf("quiesce.timeout: %q is not a time such as 5s, of more than 0s and at most %s", q.Timeout, MaxFreeze)
	}
	return errorOf(
		checkAddress("agent", q.Agent), checkAddress("qmp", q.QMP),
		checkPaths("pre", q.Pre), checkPaths("post", q.Post), checkPaths("mountpoints", q.Mountpoints))
}

func checkAddress(key, address string) error {
	domain, libvirt := strings.CutPrefix(address, "libvirt:")
	if address == "" || filepath.IsAbs(address) || libvirt && domain != "" && domain[0] != '-' {
		return nil
	}
	return fmt.Errorf("quiesce.%s: %q is neither a unix socket's absolute path nor libvirt:DOMAIN", key, address)
}

func checkPaths(key string, paths []string) error {
	for i, path := range paths {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("quiesce.%s[%d]: %q is not an absolute path", key, i, path)
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
		return fmt.Errorf("limit.snapshots: %d is negative", l.Snapshots)
	}
	if _, err := ParseSize(l.Bytes); err != nil {
		return fmt.Errorf("limit.bytes: %w", err)
	}
	if age, err := time.ParseDuration(l.Age); err != nil || age < 0 {
		return fmt.Errorf("limit.age: %q is not a time such as 72h", l.Age)
	}
	return nil
}

func (k *KeepPolicy) check() error {
	for key, n := range map[string]int{"undo": k.Undo, "hourly": k.Hourly, "daily": k.Daily, "weekly": k.Weekly, "monthly": k.Monthly} {
		if n < 0 {
			return fmt.Errorf("keep.%s: %d is negative", key, n)
		}
	}
	return nil
}

// ParseSize reads "16MiB", "1.5G" or a number of bytes. A plain letter counts in powers of 1024, as zfs does.
func ParseSize(text string) (int64, error) {
	full := text
	if strings.TrimRight(text, "kKmMgGtTpPeE") != text {
		full += "iB"
	}
	n, err := humanize.ParseBytes(full)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 256MiB", text)
	}
	return int64(n), nil
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

// checkLimits is EDQUOT where the policy allows no further snapshot. What reverts and commits kept counts for none, nor
// what will be thinned out as soon as the schedule has made this one.
func (v *VM) checkLimits(auto bool) error {
	p := v.Policy()
	limit, _ := ParseSize(p.Limit.Bytes)
	if p.Limit.Snapshots == 0 && limit == 0 {
		return nil
	}
	var count int
	var bytes int64
	var going []*Snapshot
	if auto {
		going = v.displaced()
	}
	for _, n := range v.Snapshots() {
		if slices.Contains(going, n) {
			continue
		}
		info := n.Info()
		bytes += info.Held
		if !n.Undo {
			count++
		}
	}
	if p.Limit.Snapshots > 0 && count >= p.Limit.Snapshots {
		return Errorf(syscall.EDQUOT, "VM %q has %d snapshots, and its policy allows %d; delete one", v.Name(), count, p.Limit.Snapshots)
	}
	if limit > 0 && bytes >= limit {
		return Errorf(syscall.EDQUOT, "the snapshots of VM %q take %s, and its policy allows %s; delete one", v.Name(), humanize.IBytes(uint64(bytes)), humanize.IBytes(uint64(limit)))
	}
	return nil
}

// OverAge is why a VM is not as its policy wants it, as far as the age of its snapshots goes.
func (v *VM) OverAge() (reasons []string) {
	limit, _ := time.ParseDuration(v.Policy().Limit.Age)
	if limit == 0 {
		return nil
	}
	for _, n := range v.Snapshots() {
		if info := n.Info(); time.Since(info.Created) > limit && !info.Undo {
			reasons = append(reasons, "snapshot "+info.Name+" is older than "+limit.String())
		}
	}
	return reasons
}
