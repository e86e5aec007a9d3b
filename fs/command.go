package fs

// The control language: what may be written to a control file. Pure: bytes in, command out.
//
// A command is one line, `NAME [NAME…] [key=value…]`, or one JSON object with the same keys.

import (
	"bytes"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/snapfs/snapfs/layer"
)

// maxCommand is the longest command, in bytes.
const maxCommand = 64 << 10

// command is what the keys said; those that were not given are zero.
type command struct {
	names          []string
	to             string
	description    string
	discard, force bool
	files          []string // nil: all
	hooks          []string // nil: all
	memory         bool
	by             layer.Request // that it came with
}

// keys are all that the language knows, and which control files take them.
var keys = map[string][]control{
	"name":        {controlCreate, controlDelete, controlRename, controlRevert, controlPreview, controlClone},
	"names":       {controlDelete},
	"to":          {controlRename, controlClone},
	"description": {controlCreate},
	"discard":     {controlRevert},
	"force":       {controlRevert, controlPreview, controlUndo},
	"files":       {controlCreate, controlRevert, controlPreview},
	"memory":      {controlCreate},
	"hooks":       {controlCreate},
}

// parseCommand parses what was written to a control file.
func parseCommand(which control, text []byte) (command, error) {
	if len(text) > maxCommand {
		return command{}, invalid("a command of %d bytes: at most %d", len(text), maxCommand)
	}
	if !utf8.Valid(text) {
		return command{}, invalid("the command is not UTF-8")
	}
	p := parser{which: which, given: make(map[string]bool)}
	var err error
	if text = bytes.TrimSpace(text); bytes.HasPrefix(text, []byte("{")) {
		err = p.parseJSON(text)
	} else {
		err = p.parseLine(string(text))
	}
	if err == nil {
		err = p.complete()
	}
	if err != nil {
		return command{}, err
	}
	return p.command, nil
}

func invalid(format string, args ...any) error { return layer.Errorf(syscall.EINVAL, format, args...) }

// parser gathers a command from its keys.
type parser struct {
	command
	which control
	given map[string]bool
}

// key notes that a key is given. It may be only once, and only where it means something.
func (p *parser) key(name string) error {
	takers, known := keys[name]
	switch {
	case !known:
		return invalid("unknown key %q", name)
	case !slices.Contains(takers, p.which):
		return invalid("%s takes no %s", p.which.name(), name)
	case p.given[name]:
		return invalid("%s is given twice", name)
	}
	p.given[name] = true
	return nil
}

// complete checks that a command has what it needs.
func (p *parser) complete() error {
	if len(p.names) == 0 && slices.Contains(keys["name"], p.which) {
		return invalid("%s needs the name of a snapshot", p.which.name())
	}
	if p.which != controlDelete && len(p.names) > 1 {
		return invalid("%s takes one snapshot, not %s", p.which.name(), strings.Join(p.names, " "))
	}
	if p.which == controlRename && p.to == "" {
		return invalid("rename needs the old and the new name")
	}
	if p.which == controlClone && p.to == "" {
		return invalid("clone needs the name of a snapshot and to=, that of the new VM")
	}
	if p.files != nil && len(p.files) == 0 {
		return invalid("files names no file; leave it out for all of them")
	}
	if p.hooks != nil && len(p.hooks) == 0 {
		return invalid("hooks names no script; leave it out for all of them")
	}
	return nil
}
