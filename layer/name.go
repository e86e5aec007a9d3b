package layer

// Names: what VMs, files and snapshots may be called.

import (
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// NameKind is what a name is for.
type NameKind string

// The kinds of names, as they appear in error texts.
const (
	NameVM       NameKind = "VM"
	NameFile     NameKind = "file"
	NameSnapshot NameKind = "snapshot"
)

// SnapDir is the directory of snapshots and control files in the mount and in every VM.
const SnapDir = ".snapshots"

// controlNames are taken in .snapshots, those of control files still to come included.
var controlNames = map[string]bool{
	"create": true, "delete": true, "rename": true, "revert": true, "preview": true, "commit": true,
	"undo": true, "clone": true, "tree": true, "list": true, "status": true, "log": true, "policy": true,
}

// CheckName returns EINVAL, with what is wrong with it, for a name that a thing of this kind can't have.
func CheckName(kind NameKind, name string) error {
	bad := func(why string) error {
		return Errorf(syscall.EINVAL, "%q can't name a %s: %s", name, kind, why)
	}
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > 255:
		return bad("it is longer than 255 bytes")
	case !utf8.ValidString(name):
		return bad("it is not UTF-8")
	case strings.ContainsAny(name, "/@"):
		return bad("it has a / or @")
	case strings.ContainsFunc(name, unicode.IsControl):
		return bad("it has a control character")
	case strings.Contains(name, ".."):
		return bad("it has ..")
	case strings.ContainsRune(`-{"`, rune(name[0])):
		return bad("it starts with " + name[:1])
	}
	switch {
	case kind != NameFile && name[0] == '.':
		return bad("it starts with .")
	case kind == NameFile && (name == "." || name == SnapDir):
		return bad("it is taken")
	case kind == NameFile && (name == "memory" || name == "snapshot.json"):
		return bad("a snapshot keeps something else under it")
	case kind == NameSnapshot && controlNames[name]:
		return bad("a control file has it")
	}
	return nil
}
