package fs

// Control files: which there are, who may use them, and what an open one says.

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

// control says which control file of a .snapshots directory one is. The numbers are part of node ids.
type control uint8

const (
	controlCreate control = iota
	controlDelete
	controlRename
	controlRevert
	controlTree
	controlList
	controlStatus
	controlLog
	controlPreview
	controlCommit
	controlUndo
	controlClone
	controlPolicy
	controlScrub
	controlFormat

	controls = 16 // that there can be
)

var (
	vmControls = []control{controlCreate, controlDelete, controlRename, controlRevert,
		controlPreview, controlCommit, controlUndo, controlClone, controlPolicy,
		controlTree, controlList, controlStatus, controlLog}
	mountControls = []control{controlStatus, controlList, controlLog, controlScrub, controlFormat}
)

// controlsOf lists the control files of a VM's .snapshots, or for 0 of the mount's.
func controlsOf(vm layer.VMID) []control {
	if vm == 0 {
		return mountControls
	}
	return vmControls
}

func controlNamed(vm layer.VMID, name string) (control, bool) {
	for _, which := range controlsOf(vm) {
		if which.name() == name {
			return which, true
		}
	}
	return 0, false
}

func (c control) name() string   { return usages[c].name }
func (c control) usage() string  { return usages[c].usage }
func (c control) isWriter() bool { return usages[c].usage != "" }

// controlAttr: a control file is its VM directory's owner's, and of size 0 like the files in /proc.
func (s *server) controlAttr(n node) (layer.Attr, error) {
	vm, which := n.control()
	if which.name() == "" {
		return layer.Attr{}, errStale
	}
	a := s.rootAttr()
	if vm != 0 {
		v, err := s.vmOf(n)
		if err != nil {
			return layer.Attr{}, err
		}
		a = v.Attr()
	}
	a.Mode = syscall.S_IFREG | 0o400
	if which.isWriter() {
		a.Mode = syscall.S_IFREG | 0o600
	}
	a.Size, a.Blocks, a.Nlink = 0, 0, 1
	return a, nil
}

// controlFile is an open control file: what reading gives next. Reads wait for the command that is running.
type controlFile struct {
	by       uint32 // the user who opened it
	mu       sync.Mutex
	text     []byte
	pos      int
	recalled bool // an earlier worker opened it, and the session knows how far it was read
}

// openControl renders what the file says at this moment, or its usage.
func (s *server) openControl(n node, fh uint64, by uint32, write bool) error {
	vm, which := n.control()
	if write && !which.isWriter() {
		return layer.Errorf(syscall.EACCES, "%s takes no commands", which.name())
	}
	text, err := s.render(n)
	if err != nil {
		return err
	}
	if err := s.store.Session().OpenText(layer.Handle(fh), vm, by); err != nil {
		return err
	}
	s.controls.put(fh, &controlFile{by: by, text: text})
	return nil
}

func (s *server) closeControl(fh uint64) {
	s.controls.drop(fh)
	s.store.Released(fh)
	s.store.Session().CloseText(layer.Handle(fh))
}

// controlHandle finds an open control file, also one that an earlier worker opened.
func (s *server) controlHandle(n node, fh uint64) (*controlFile, error) {
	if c := s.controls.get(fh); c != nil {
		return c, nil
	}
	session := s.store.Session()
	by, ok := session.TextOpener(layer.Handle(fh))
	if !ok {
		return nil, errStale
	}
	text, kept := session.Text(layer.Handle(fh))
	if !kept {
		var err error
		if text, err = s.recallText(n, fh); err != nil {
			return nil, err
		}
	}
	c := &controlFile{by: by, text: text, recalled: true}
	s.controls.put(fh, c)
	return c, nil
}

// readControl goes on reading where the last read of this handle ended.
func (s *server) readControl(n node, in *fuse.ReadIn, p []byte) (int, error) {
	c, err := s.controlHandle(n, in.Fh)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	session, h, request := s.store.Session(), layer.Handle(in.Fh), handle(&in.InHeader)
	if c.recalled {
		c.recalled = false
		var over bool
		if c.pos, over = session.TextPosition(h, request, in.Unique&resent != 0); over || c.pos > len(c.text) {
			c.pos = len(c.text)
		}
	}
	start := c.pos
	c.pos += copy(p, c.text[c.pos:])
	if start == 0 && c.pos < len(c.text) { // before this read is answered
		session.KeepText(h, c.text)
	}
	session.SetTextRead(h, layer.TextRead{Request: request, Start: start, End: c.pos, Last: c.pos == len(c.text)})
	return c.pos - start, nil
}

// writeControl runs a command. What is read next is its answer, also when it failed. It is root's only if root both
// opened the file and writes to it: else some program of root's could be made to write what it was not asked to.
func (s *server) writeControl(n node, in *fuse.WriteIn, line []byte) error {
	c, err := s.controlHandle(n, in.Fh)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text, err = s.run(n, in, line, in.Uid == 0 && c.by == 0)
	c.pos, c.recalled = 0, false
	s.forgetRead(in.Fh)
	return err
}

// forgetRead has the session know nothing of what was read through a handle: it begins anew.
func (s *server) forgetRead(fh uint64) {
	session, h := s.store.Session(), layer.Handle(fh)
	session.SetTextRead(h, layer.TextRead{})
	session.DropText(h)
}

// failControl has an open control file say that a command failed that nobody ran.
func (s *server) failControl(fh uint64, err error) {
	if by, ok := s.store.Session().TextOpener(layer.Handle(fh)); ok {
		s.controls.put(fh, &controlFile{by: by, text: failed(err)})
		s.forgetRead(fh)
	}
}
