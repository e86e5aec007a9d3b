package fs

// Running commands, and what they answer.

import (
	"bytes"
	"encoding/json"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// The answers: one JSON line each.
type (
	oneAnswer struct {
		Snapshot layer.SnapshotInfo `json:"snapshot"`
	}
	manyAnswer struct {
		Snapshots []layer.SnapshotInfo `json:"snapshots"`
	}
	revertAnswer struct {
		Snapshot layer.SnapshotInfo `json:"snapshot"`
		Kept     *string            `json:"kept"` // the snapshot of what was left behind
		Reset    bool               `json:"reset"`
		Message  string             `json:"message"`
	}
	errorAnswer struct {
		Error errorText `json:"error"`
	}
	errorText struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
)

// run parses and runs what was written to a control file, and returns the answer.
func (s *server) run(n node, text []byte) ([]byte, error) {
	_, which := n.control()
	if !which.isWriter() {
		return nil, layer.Errorf(syscall.EACCES, "%s takes no commands", which.name())
	}
	vm, err := s.vmOf(n)
	if err != nil {
		return failed(err), err
	}
	c, err := parseCommand(which, text)
	if err != nil {
		return failed(err), s.noteCommand(vm.Name(), which, err)
	}
	answer, err := s.execute(vm, which, c)
	if err != nil {
		return failed(err), err
	}
	return marshal(answer), nil
}

// execute runs a command on a VM and notes in the log how it went.
func (s *server) execute(vm *layer.VM, which control, c command) (answer any, err error) {
	attrs := []any{"snapshot", strings.Join(c.names, ",")}
	switch which {
	case controlCreate:
		answer, err = create(vm, c)
	case controlDelete:
		answer, err = deleteAll(vm, c)
	case controlRename:
		attrs = append(attrs, "to", c.to)
		answer, err = rename(vm, c)
	case controlRevert:
		var a revertAnswer
		if a, err = revert(vm, c); a.Kept != nil {
			attrs = append(attrs, "kept", *a.Kept)
		}
		answer = a
	}
	return answer, s.noteCommand(vm.Name(), which, err, attrs...)
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

func create(vm *layer.VM, c command) (any, error) {
	info, err := vm.CreateSnapshot(layer.CreateOptions{Name: c.names[0], Description: c.description, Files: c.files})
	return oneAnswer{info}, err
}

func deleteAll(vm *layer.VM, c command) (any, error) {
	infos, err := vm.DeleteSnapshots(c.names)
	if err == nil && len(c.names) == 1 {
		return oneAnswer{infos[0]}, nil
	}
	return manyAnswer{infos}, err
}

func rename(vm *layer.VM, c command) (any, error) {
	info, err := vm.RenameSnapshot(c.names[0], c.to)
	return oneAnswer{info}, err
}

func revert(vm *layer.VM, c command) (revertAnswer, error) {
	result, err := vm.Revert(layer.RevertOptions{Name: c.names[0], Discard: c.discard, Force: c.force, Files: c.files})
	if err != nil {
		return revertAnswer{}, err
	}
	a := revertAnswer{Snapshot: result.Snapshot, Reset: result.Reset}
	a.Message = "the VM's files are those of " + result.Snapshot.Name
	if result.Kept != "" {
		a.Kept = &result.Kept
		a.Message += "; what they were is kept as " + result.Kept
	}
	if result.Reset {
		a.Message += "; reset the guest now: its disks changed under it"
	}
	return a, nil
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
