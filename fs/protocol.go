package fs

// What the protocol server needs beside the requests themselves, and two of its habits that are not wanted here.

import (
	"bytes"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// answerSize is how much room a request's answer may take.
func answerSize(req []byte) int {
	const fixed = pageSize // more than any answer's fixed part
	room := func(asked uint32) int { return fixed + int(min(asked, maxIO)) }
	header := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
	switch {
	case header.Opcode == opReadDir && len(req) >= readHeader:
		return room((*fuse.ReadIn)(unsafe.Pointer(&req[0])).Size)
	case header.Opcode == opGetXAttr || header.Opcode == opListXAttr:
		if in := (*fuse.GetXAttrIn)(unsafe.Pointer(&req[0])); len(req) >= int(unsafe.Sizeof(*in)) {
			return room(in.Size)
		}
	case header.Opcode == opIoctl:
		if in := (*fuse.IoctlIn)(unsafe.Pointer(&req[0])); len(req) >= int(unsafe.Sizeof(*in)) {
			return room(in.OutSize)
		}
	}
	return fixed
}

// pollHack is a file that go-fuse pretends to have in the root. We have no use for it: Go's poller never sees this
// mount from inside.
const pollHack = ".go-fuse-epoll-hack"

// refusePollHack says what to answer a request for that file.
func refusePollHack(req []byte) (fuse.Status, bool) {
	header := (*fuse.InHeader)(unsafe.Pointer(&req[0]))
	if node(header.NodeId) != rootNode || !bytes.Contains(req[inHeader:], []byte(pollHack+"\x00")) {
		return fuse.OK, false
	}
	if header.Opcode == opLookup {
		return fuse.ENOENT, true
	}
	return fuse.EINVAL, true
}
