package fs

// The commands that change what a VM's files are: revert, preview, commit, undo.

import (
	"fmt"
	"strings"

	"github.com/snapfs/snapfs/layer"
)

// change runs one of them. The answer says in words what came of it.
func (s *server) change(vm *layer.VM, which control, c command) (changeAnswer, error) {
	var result layer.RevertResult
	var err error
	switch which {
	case controlRevert:
		result, err = vm.Revert(layer.RevertOptions{Name: c.names[0], Discard: c.discard, Force: c.force, Files: c.files, By: c.by})
	case controlPreview:
		result, err = vm.Preview(layer.PreviewOptions{Name: c.names[0], Force: c.force, Files: c.files, By: c.by})
	case controlCommit:
		result, err = vm.CommitPreview(c.by)
	case controlUndo:
		result, err = vm.Undo(c.force, c.by)
	default:
		err = invalid("%s takes no commands", which.name())
	}
	if err != nil {
		return changeAnswer{}, err
	}
	return s.changeAnswer(vm, which, c, result), nil
}

// changeAnswer is what to answer to one of them that is done.
func (s *server) changeAnswer(vm *layer.VM, which control, c command, result layer.RevertResult) changeAnswer {
	a := makeChangeAnswer(which, c, result)
	if which == controlRevert || which == controlPreview {
		s.tellMachine(vm, c, &a)
	}
	return a
}

// tellMachine says how the machine was when the snapshot was taken, and how to have it so again. With some of the files
// only, memory and disks would not agree.
func (s *server) tellMachine(vm *layer.VM, c command, a *changeAnswer) {
	a.Running = a.Snapshot.Running
	switch {
	case a.Running == nil:
	case *a.Running:
		a.Message += "; the machine ran when it was taken"
	default:
		a.Message += "; the machine did not run when it was taken"
	}
	if a.Snapshot.Memory == nil || c.files != nil {
		return
	}
	if err := memoryDamage(vm, a.Snapshot.Name); err != nil {
		text := fmt.Sprintf("start it anew, and not from its memory, which is lost: %v", err)
		a.Warning = &text
		a.Message += "; " + text
	} else {
		line := s.incoming(vm, a.Snapshot.Name)
		a.Incoming = &line
		a.Message += "; start it from its memory with -incoming " + line + ", and cont if it stands still then"
	}
}

// memoryDamage says why a machine can't be started from the memory that a snapshot has.
func memoryDamage(vm *layer.VM, snapshot string) error {
	n, err := vm.Snapshot(snapshot)
	if err != nil {
		return nil // it is gone meanwhile
	}
	m, err := n.Memory()
	if err != nil {
		return err
	}
	return m.Damage()
}

func makeChangeAnswer(which control, c command, result layer.RevertResult) changeAnswer {
	a := changeAnswer{Snapshot: result.Snapshot, Reset: result.Reset}
	what, name := "the VM's files are", result.Snapshot.Name
	if c.files != nil {
		what = fmt.Sprintf("of the VM's files, %s are", strings.Join(c.files, ", "))
	}
	switch which {
	case controlRevert:
		a.Message = fmt.Sprintf("%s those of %s", what, name)
	case controlPreview:
		a.Message = fmt.Sprintf("%s those of %s, until undo or for good with commit", what, name)
	case controlCommit:
		a.Message = fmt.Sprintf("the VM goes on from its preview of %s", name)
	case controlUndo:
		a.Message = fmt.Sprintf("the VM's files are what they were before the preview of %s", name)
	}
	if result.Kept != "" {
		a.Kept = &result.Kept
		a.Message += "; what they were is kept as " + result.Kept
	}
	if result.Reset {
		a.Message += "; reset the guest now: its disks changed under it"
	}
	return a
}

// note adds to a command's line in the event log what the command itself did not say.
func (a changeAnswer) note(attrs []any) []any {
	if len(attrs) == 0 {
		attrs = append(attrs, "snapshot", a.Snapshot.Name)
	}
	if a.Kept != nil {
		attrs = append(attrs, "kept", *a.Kept)
	}
	if a.Reset {
		attrs = append(attrs, "reset", true)
	}
	if a.Warning != nil {
		attrs = append(attrs, "warning", *a.Warning)
	}
	return attrs
}
