package fs

// Requests that the kernel sends again because the worker that took them died. Most may be done twice. What makes,
// renames or removes something, and commands, must not be: the store knows which of them were done.

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

// requestOf names a request in the store's records.
func requestOf(h *fuse.InHeader) layer.Request { return layer.Request{ID: h.Unique &^ resent} }

// done says what a request came to, if a worker before this one did it. That is an event of its own.
func (s *server) done(h *fuse.InHeader) (layer.Outcome, bool) {
	if h.Unique&resent == 0 {
		return layer.Outcome{}, false
	}
	outcome, done := s.store.Done(h.Unique &^ resent)
	if done {
		s.log.Add(s.vmName(node(h.NodeId)), "answered-late", "what", "a request that was done when its worker died")
	}
	return outcome, done
}

func (s *server) wasDone(h *fuse.InHeader) bool {
	_, done := s.done(h)
	return done
}

// recall makes the answer to a command that was done, as it stands now.
func (s *server) recall(vm *layer.VM, which control, done layer.Outcome) (any, command, error) {
	c, err := parseCommand(which, done.Text)
	if err != nil {
		return nil, c, err
	}
	if which == controlDelete {
		return deleteAnswer(c, done.Snapshots), c, nil
	}
	snapshot := done.Snapshots[0]
	switch which {
	case controlCreate:
		return createAnswer{Snapshot: snapshot}, c, nil
	case controlRename:
		return oneAnswer{snapshot}, c, nil
	case controlClone:
		return cloneAnswer{snapshot, done.VM}, c, nil
	}
	return s.changeAnswer(vm, which, c, layer.RevertResult{Snapshot: snapshot, Kept: done.Kept, Reset: done.Reset}), c, nil
}

// recallCommand answers a command that was sent again and was done. Its line in the event log may be there already.
func (s *server) recallCommand(vm *layer.VM, which control, done layer.Outcome) ([]byte, error) {
	answer, c, err := s.recall(vm, which, done)
	if err != nil {
		return failed(err), err
	}
	if a, ok := answer.(cloneAnswer); ok {
		s.noteClone(vm, c, a)
	}
	return marshal(answer), s.noteCommand(vm.Name(), which, nil, c.attrs()...)
}

// recallText is what a handle reads that an earlier worker opened and nobody has begun to read: the answer to the last command that came through it,
// if one was done, else what it would read if it were opened now.
func (s *server) recallText(n node, fh uint64) ([]byte, error) {
	_, which := n.control()
	if done, ok := s.store.DoneThrough(fh); ok && which.isWriter() {
		vm, err := s.vmOf(n)
		if err != nil {
			return nil, err
		}
		answer, _, err := s.recall(vm, which, done)
		return marshal(answer), err
	}
	return s.render(n)
}
