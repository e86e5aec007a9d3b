package fs

// What a snapshot's directory has beside the VM's files: the machine's memory, and snapshot.json, which tells of the
// snapshot and of the machine.

import (
	"encoding/json"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/snapfs/snapfs/layer"
)

// Their names; no file of a VM can have one of these.
const (
	memoryName = "memory"
	aboutName  = "snapshot.json"
)

// beside finds one of them by name, and is 0 for other names. ENOENT for a memory that the snapshot does not have.
func beside(snapshot *layer.Snapshot, name string) (node, error) {
	switch name {
	case memoryName:
		_, err := snapshot.Memory()
		return memoryNode(snapshot.ID()), err
	case aboutName:
		return aboutNode(snapshot.ID()), nil
	}
	return 0, nil
}

func (s *server) memory(n node) (layer.Memory, error) {
	snapshot, err := s.store.SnapshotByID(n.snapshotID())
	if err != nil {
		return layer.Memory{}, err
	}
	return snapshot.Memory()
}

func (s *server) memoryAttr(n node) (layer.Attr, error) {
	memory, err := s.memory(n)
	if err != nil {
		return layer.Attr{}, err
	}
	a := memory.Attr()
	a.Mode |= syscall.S_IFREG
	return a, nil
}

// about is the text of snapshot.json: the snapshot as list has it, and the machine as its monitor described it.
func (s *server) about(n node) ([]byte, error) {
	snapshot, err := s.store.SnapshotByID(n.snapshotID())
	if err != nil {
		return nil, err
	}
	machine, err := snapshot.Machine()
	if err != nil {
		return nil, err
	}
	return marshal(struct {
		VM string `json:"vm"`
		layer.SnapshotInfo
		Machine json.RawMessage `json:"machine"` // null if none did
	}{snapshot.VM().Name(), snapshot.Info(), machine}), nil
}

// aboutAttr is as of the snapshot's directory. The size is that of the present text.
func (s *server) aboutAttr(n node) (layer.Attr, error) {
	text, err := s.about(n)
	if err != nil {
		return layer.Attr{}, err
	}
	a, err := s.snapshotAttr(n)
	a.Mode = syscall.S_IFREG | 0o400
	a.Size, a.Blocks, a.Nlink = int64(len(text)), 0, 1
	return a, err
}

// openBeside keeps the text of snapshot.json for as long as it is open: a new name does not shift it.
func (s *server) openBeside(n node, in *fuse.OpenIn, out *fuse.OpenOut) error {
	if writes(in.Flags) {
		return errReadOnly
	}
	out.Fh = handle(&in.InHeader)
	if n.kind() == kindAbout {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
		_, err := s.aboutHandle(n, out.Fh)
		return err
	}
	out.OpenFlags = viewFlags
	memory, err := s.memory(n)
	if err != nil {
		return err
	}
	return memory.Open(layer.Handle(out.Fh))
}

// aboutHandle finds an open snapshot.json. One that an earlier process opened is read anew.
func (s *server) aboutHandle(n node, fh uint64) ([]byte, error) {
	if text := s.abouts.get(fh); text != nil {
		return *text, nil
	}
	text, err := s.about(n)
	if err == nil {
		s.abouts.put(fh, &text)
	}
	return text, err
}

func (s *server) readBeside(n node, in *fuse.ReadIn, p []byte) (int, error) {
	if n.kind() == kindAbout {
		text, err := s.aboutHandle(n, in.Fh)
		return copy(p, text[min(in.Offset, uint64(len(text))):]), err
	}
	memory, err := s.memory(n)
	if err != nil {
		return 0, err
	}
	return memory.Read(p, int64(in.Offset))
}
