package fs

// Running commands, and what they answer.

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// The answers: one JSON line each.
type (
	oneAnswer struct {
		Snapshot layer.SnapshotInfo `json:"snapshot"`
	}
	createAnswer struct {
		Snapshot layer.SnapshotInfo `json:"snapshot"`
		PausedMS int64              `json:"paused_ms"` // for which the guest stood still
	}
	manyAnswer struct {
		Snapshots []layer.SnapshotInfo `json:"snapshots"`
	}
	changeAnswer struct {
		Snapshot layer.SnapshotInfo `json:"snapshot"`
		Kept     *string            `json:"kept"` // the snapshot of what was left behind
		Reset    bool               `json:"reset"`
		Running  *bool              `json:"running"`           // the machine ran when the snapshot was taken
		Incoming *string            `json:"incoming"`          // what to give to QEMU's -incoming in a shell
		Warning  *string            `json:"warning,omitempty"` // why it can't be started from its memory, though there is one
		Message  string             `json:"message"`
	}
	cloneAnswer struct {
		Snapshot layer.SnapshotInfo `json:"snapshot"`
		VM       string             `json:"vm"` // the new one
	}
	scrubAnswer struct {
		Scrub layer.ScrubReport `json:"scrub"`
	}
	formatAnswer struct {
		Format layer.FormatInfo `json:"format"`
	}
	errorAnswer struct {
		Error errorText `json:"error"`
	}
	errorText struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
)

// run parses and runs what was written to a control file, by root or somebody else, and returns the answer.
func (s *server) run(n node, in *fuse.WriteIn, text []byte, root bool) ([]byte, error) {
	_, which := n.control()
	if !which.isWriter() {
		return nil, layer.Errorf(syscall.EACCES, "%s takes no commands", which.name())
	}
	if which == controlScrub {
		return s.scrub(text)
	}
	if which == controlFormat {
		return s.raiseFormat(text)
	}
	if which == controlClone && !root {
		err := layer.Errorf(syscall.EACCES, "a clone is a new VM in the mount, where only root makes directories")
		return failed(err), s.noteCommand(s.vmName(n), which, err)
	}
	vm, err := s.vmOf(n)
	if err != nil {
		return failed(err), err
	}
	if which == controlPolicy {
		return s.setPolicy(vm, text, root)
	}
	if done, ok := s.done(&in.InHeader); ok {
		return s.recallCommand(vm, which, done)
	}
	s.store.Released(in.Fh) // only the answer to this can be asked for from here on
	c, err := parseCommand(which, text)
	if err != nil {
		return failed(err), s.noteCommand(vm.Name(), which, err)
	}
	c.by = layer.Request{ID: handle(&in.InHeader), Handle: in.Fh, Text: text}
	answer, err := s.execute(vm, which, c)
	if err != nil {
		return failed(err), err
	}
	return marshal(answer), nil
}

// scrub compares all data with its checksums. What it finds is in the answer, and in the log.
func (s *server) scrub(text []byte) ([]byte, error) {
	if _, err := parseCommand(controlScrub, text); err != nil {
		return failed(err), s.noteCommand("", controlScrub, err)
	}
	report, err := s.store.Scrub()
	if err != nil {
		return failed(err), s.noteCommand("", controlScrub, err)
	}
	for _, f := range report.Findings {
		s.log.Add("", "damaged", "object", f.Object, "text", f.Text)
	}
	err = s.noteCommand("", controlScrub, nil, "layers", report.Layers, "images", report.Images, "bytes", report.Bytes, "findings", len(report.Findings))
	return marshal(scrubAnswer{report}), err
}

// raiseFormat has the store use a newer version of its format. Done twice it is the same.
func (s *server) raiseFormat(text []byte) ([]byte, error) {
	version, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		err = invalid("%q is no number of a version", text)
	} else {
		err = s.store.RaiseFormat(version)
	}
	if err != nil {
		return failed(err), s.noteCommand("", controlFormat, err)
	}
	return marshal(formatAnswer{s.store.Format()}), s.noteCommand("", controlFormat, nil, "version", version)
}

// execute runs a command on a VM and notes in the log how it went.
func (s *server) execute(vm *layer.VM, which control, c command) (answer any, err error) {
	s.commands.Add(1)
	defer s.commands.Add(-1)
	attrs := c.attrs()
	switch which {
	case controlCreate:
		var a createAnswer
		if a, err = s.create(vm, c); err == nil {
			attrs = a.note(attrs)
		}
		answer = a
	case controlDelete:
		answer, err = deleteAll(vm, c)
	case controlRename:
		answer, err = rename(vm, c)
	case controlClone:
		answer, err = s.clone(vm, c)
	default:
		var a changeAnswer
		if a, err = s.change(vm, which, c); err == nil {
			attrs = a.note(attrs)
		}
		answer = a
	}
	return answer, s.noteCommand(vm.Name(), which, err, attrs...)
}

// attrs are what a command's line in the event log has in any case.
func (c command) attrs() (attrs []any) {
	if len(c.names) > 0 {
		attrs = append(attrs, "snapshot", strings.Join(c.names, ","))
	}
	if c.to != "" {
		attrs = append(attrs, "to", c.to)
	}
	return attrs
}

// told is an error that has its line in the event log.
type told struct{ error }

func (t told) Unwrap() error { return t.error }

// noteCommand adds a command's line to the event log and returns its error as told. Each is told: unlike a guest's
// writes, people send them.
func (s *server) noteCommand(vm string, which control, err error, attrs ...any) error {
	if err == nil {
		s.log.Add(vm, which.name(), attrs...)
		return nil
	}
	attrs = append(attrs, "errno", unix.ErrnoName(layer.Errno(err)), "error", err)
	s.log.Add(vm, which.name()+"-failed", attrs...)
	return told{err}
}

// create makes a snapshot; how its guest is brought to rest is the caller's of Mount to know.
func (s *server) create(vm *layer.VM, c command) (createAnswer, error) {
	o := layer.CreateOptions{Name: c.names[0], Description: c.description, Files: c.files, By: c.by}
	made, err := s.options.Create(vm, CreateRequest{CreateOptions: o, Hooks: c.hooks, Memory: c.memory})
	return createAnswer{made.SnapshotInfo, made.Paused.Milliseconds()}, err
}

// note adds to a create's line in the event log what the snapshot is worth, and what it cost the guest.
func (a createAnswer) note(attrs []any) []any {
	attrs = append(attrs, "consistency", a.Snapshot.Consistency)
	if a.Snapshot.Memory != nil {
		attrs = append(attrs, "memory", *a.Snapshot.Memory)
	}
	if a.PausedMS > 0 {
		attrs = append(attrs, "paused_ms", a.PausedMS)
	}
	if a.Snapshot.Warning != nil {
		attrs = append(attrs, "warning", *a.Snapshot.Warning)
	}
	return attrs
}

func deleteAll(vm *layer.VM, c command) (any, error) {
	names := c.names
	if slices.ContainsFunc(names, isRange) {
		var err error
		if names, err = ExpandRanges(infos(vm), names); err != nil {
			return nil, err
		}
	}
	deleted, err := vm.DeleteSnapshots(names, c.by)
	if err != nil {
		return nil, err
	}
	return deleteAnswer(c, deleted), nil
}

func deleteAnswer(c command, deleted []layer.SnapshotInfo) any {
	if len(c.names) == 1 && !isRange(c.names[0]) {
		return oneAnswer{deleted[0]}
	}
	return manyAnswer{deleted}
}

func rename(vm *layer.VM, c command) (any, error) {
	info, err := vm.RenameSnapshot(c.names[0], c.to, c.by)
	return oneAnswer{info}, err
}

func (s *server) clone(vm *layer.VM, c command) (any, error) {
	snapshot, err := vm.Snapshot(c.names[0])
	if err != nil {
		return nil, err
	}
	made, err := vm.Clone(c.names[0], c.to, c.by)
	if err != nil {
		return nil, err
	}
	a := cloneAnswer{snapshot.Info(), made.Name()}
	s.noteClone(vm, c, a)
	return a, nil
}

func (s *server) noteClone(vm *layer.VM, c command, a cloneAnswer) {
	s.touchRoot()
	s.log.Add(a.VM, "vm-created", "from", vm.Name()+"@"+c.names[0])
}

func failed(err error) []byte {
	return marshal(errorAnswer{errorText{unix.ErrnoName(layer.Errno(err)), err.Error()}})
}

// marshal makes one line of JSON. None of what it is given can fail.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // names with < and & stay readable
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return b.Bytes()
}
