package quiesce

// Guest agents and monitors whose sockets libvirt holds, reached through virsh: one process for each command. libvirt
// brings the agent's stream into step itself.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const libvirtPrefix = "libvirt:"

// CheckAddress says whether an agent's or monitor's address is an absolute path to a unix socket or libvirt:DOMAIN;
// otherwise EINVAL.
func CheckAddress(address string) error {
	domain, ok := strings.CutPrefix(address, libvirtPrefix)
	switch {
	case ok && (domain == "" || domain[0] == '-'):
		return invalid("%q names no libvirt domain", address)
	case !ok && !filepath.IsAbs(address):
		return invalid("%q is neither a socket's absolute path nor libvirt:DOMAIN", address)
	}
	return nil
}

func isLibvirt(address string) bool { return strings.HasPrefix(address, libvirtPrefix) }

// virsh is an agent or a monitor of a libvirt domain.
type virsh struct {
	verb   string
	domain string
}

func (v *virsh) connect(context.Context) error { return nil }

func (v *virsh) close() {}

func (v *virsh) call(ctx context.Context, c command) (json.RawMessage, error) {
	if c.file != nil {
		return nil, errors.New("libvirt hands no descriptors on")
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	message, err := json.Marshal(request{Execute: c.name, Arguments: c.args})
	if err != nil {
		return nil, err
	}
	args := []string{v.verb, v.domain, string(message)}
	if v.verb == "qemu-agent-command" {
		args = append(args, "--timeout", strconv.Itoa(seconds(ctx)))
	}
	stdout, err := runVirsh(ctx, args)
	if err != nil {
		return nil, err
	}
	if len(stdout) > maxLine {
		return nil, errLongLine
	}
	r, err := parseReply(bytes.TrimSpace(stdout))
	if err != nil {
		return nil, err
	}
	return r.value()
}

// seconds are the whole ones until the context's end, but one at least. libvirt must not wait longer than its caller:
// it keeps the agent locked meanwhile, and thaw would have to wait.
func seconds(ctx context.Context) int {
	deadline, _ := ctx.Deadline()
	return max(1, int(time.Until(deadline)/time.Second))
}

// runVirsh gives what virsh printed.
func runVirsh(ctx context.Context, args []string) ([]byte, error) {
	p := process{path: "virsh", args: args, env: append(os.Environ(), "LC_ALL=C"), keep: maxLine + 1}
	stdout, stderr, err := p.run(ctx)
	if err == nil || ctx.Err() != nil {
		return stdout, err
	}
	text := printable(strings.TrimPrefix(string(stderr), "error: "))
	switch {
	case strings.Contains(text, "unable to execute QEMU"): // the peer's own answer
		return nil, &CommandError{Desc: text}
	case strings.Contains(text, "is not responding"):
		return nil, fmt.Errorf("%s: %w", text, context.DeadlineExceeded)
	case strings.Contains(text, "domain is not running"), strings.Contains(text, "failed to get domain"):
		return nil, fmt.Errorf("%s: %w", text, errNoDomain)
	case text == "":
		return nil, fmt.Errorf("virsh: %w", err)
	}
	return nil, errors.New(text)
}

// errNoDomain says that the domain does not run.
var errNoDomain = errors.New("no such guest")
