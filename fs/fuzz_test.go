package fs

import (
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// Codes of requests that are answered, and not named elsewhere.
const (
	opSetXAttr      = 21
	opRemoveXAttr   = 24
	opInit          = 26
	opGetLk         = 31
	opSetLk         = 32
	opAccess        = 34
	opBmap          = 37
	opDestroy       = 38
	opPoll          = 40
	opNotifyReply   = 41
	opReadDirPlus   = 44
	opCopyFileRange = 47
	opSyncfs        = 50
	opTmpfile       = 51
)

// FuzzRequests feeds whatever bytes to the session, as requests that follow one on the other: each has an answer that
// the kernel takes, or none if it wants none, and the store stays sound.
func FuzzRequests(f *testing.F) {
	store := newFuzzStore(f)
	for _, seed := range store.seeds() {
		f.Add(seed)
	}
	end := func(t testing.TB) {
		z := store
		store = nil // whatever comes of it
		z.end(t)
	}
	f.Cleanup(func() { end(f) })
	f.Fuzz(func(t *testing.T, data []byte) {
		if store != nil && store.used > 300 {
			end(t)
		}
		if store == nil {
			store = newFuzzStore(t)
		}
		store.used++
		for len(data) >= inHeader {
			length := int(*(*uint32)(unsafe.Pointer(&data[0])))
			n := min(max(length, inHeader), len(data), writeHeader+maxIO) // the kernel reads no less, and no more
			store.feed(t, slices.Clone(data[:n]))
			data = data[n:]
		}
	})
}

// fuzzStore has one of everything that a request can be about.
type fuzzStore struct {
	dir   string
	store *layer.Store
	*playedKernel
	used                     int
	vm, disk, snapshot, view node
}

func newFuzzStore(t testing.TB) *fuzzStore {
	t.Helper()
	dir, err := os.MkdirTemp("", "snapfs-fuzz")
	require.NoError(t, err)
	store, err := layer.Open(dir, layer.Options{Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(t, err)
	z := &fuzzStore{dir: dir, store: store}
	vm, err := store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	disk, _, err := vm.Create("disk", 0o600, 0, 0, true)
	require.NoError(t, err)
	_, err = disk.Write([]byte(strings.Repeat("data", 4096)), 8192, true)
	require.NoError(t, err)
	_, err = vm.CreateSnapshot(layer.CreateOptions{Name: "one"})
	require.NoError(t, err)
	z.playedKernel = playKernel(t, store, Options{})
	z.vm, z.disk = vmNode(vm.ID()), fileNode(disk.ID())
	z.snapshot, err = z.s.files.lookup(snapDirNode(vm.ID()), "one")
	require.NoError(t, err)
	z.view, err = z.s.files.lookup(z.snapshot, "disk")
	require.NoError(t, err)
	return z
}

// end closes a store, which must be sound.
func (z *fuzzStore) end(t testing.TB) {
	t.Helper()
	if z == nil {
		return
	}
	z.close()
	require.NoError(t, z.store.Close())
	report, err := layer.Check(z.dir)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.NoError(t, os.RemoveAll(z.dir))
}

// answers are the sizes, in bytes behind the header, of answers that say all went well. Others may have none.
var answers = map[uint32]int{
	opLookup: size[fuse.EntryOut](), opMknod: size[fuse.EntryOut](), opMkdir: size[fuse.EntryOut](),
	opSymlink: size[fuse.EntryOut](), opLink: size[fuse.EntryOut](), opGetAttr: size[fuse.AttrOut](),
	opSetAttr: size[fuse.AttrOut](), opOpen: size[fuse.OpenOut](), opOpenDir: size[fuse.OpenOut](),
	opCreate: size[fuse.EntryOut]() + size[fuse.OpenOut](), opTmpfile: size[fuse.EntryOut]() + size[fuse.OpenOut](),
	opWrite: size[fuse.WriteOut](), opStatfs: size[fuse.StatfsOut](), opLseek: size[fuse.LseekOut](),
	opUnlink: 0, opRmdir: 0, opRename: 0, opRename2: 0, opRelease: 0, opReleaseDir: 0, opFsync: 0, opFsyncDir: 0, opFlush: 0,
	opFallocate: 0, opAccess: 0,
}

func size[T any]() int {
	var v T
	return int(unsafe.Sizeof(v))
}

// feed has one request served, and holds its answer against what the kernel makes of it.
func (z *fuzzStore) feed(t *testing.T, req []byte) {
	t.Helper()
	op, unique := opcodeOf(req), uniqueOf(req)
	if op == opInit || takesMuch(req) { // an INIT comes once
		return
	}
	replies := z.serve(t, req)
	switch op {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		require.Empty(t, replies, opName(op))
		return
	}
	require.Len(t, replies, 1, opName(op))
	r := replies[0]
	require.Equal(t, unique, r.unique, opName(op))
	require.LessOrEqual(t, r.errno, int32(0))
	require.Greater(t, r.errno, int32(-512), "what the kernel takes for an errno")
	if r.errno != 0 {
		require.Empty(t, r.body, opName(op))
		require.NotEqual(t, -int32(syscall.EINTR), r.errno)
	}
	switch op {
	case opFsync, opFallocate, opOpen, opOpenDir, opLseek, opFlush, opRead, opWrite, opCreate, opRelease:
		require.NotEqual(t, -int32(syscall.ENOSYS), r.errno, "%s would never be sent again", opName(op))
	}
	if r.errno != 0 {
		return
	}
	switch want, fixed := answers[op]; {
	case op == opRead || op == opReadDir:
		require.LessOrEqual(t, len(r.body), int((*fuse.ReadIn)(unsafe.Pointer(&req[0])).Size))
	case fixed:
		require.Len(t, r.body, want, opName(op))
	default:
		require.LessOrEqual(t, len(r.body), maxIO)
	}
}

// takesMuch says whether a request would really take much of the host's disk.
func takesMuch(req []byte) bool {
	if len(req) < size[fuse.FallocateIn]() {
		return false
	}
	in := (*fuse.FallocateIn)(unsafe.Pointer(&req[0]))
	return in.Opcode == opFallocate && in.Length > 16<<20
}

// seeds are requests of each kind, some that belong together in one piece.
func (z *fuzzStore) seeds() (seeds [][]byte) {
	var last uint64 = 1000
	add := func(requests ...[]byte) { seeds = append(seeds, slices.Concat(requests...)) }
	next := func() uint64 { last += 2; return last }
	open := func(op uint32, n node, flags uint32) ([]byte, uint64) {
		u := next()
		return encode(fuse.OpenIn{Flags: flags}, op, n, u, ""), u
	}
	header := func(op uint32, n node, tail string) []byte { return encode(fuse.InHeader{}, op, n, next(), tail) }
	read := func(op uint32, n node, fh, off uint64, size uint32) []byte {
		return encode(fuse.ReadIn{Fh: fh, Offset: off, Size: size}, op, n, next(), "")
	}
	write := func(n node, fh, off uint64, flags uint32, data string) []byte {
		return encode(fuse.WriteIn{Fh: fh, Offset: off, Size: uint32(len(data)), Flags: flags}, opWrite, n, next(), data)
	}
	release := func(op uint32, n node, fh uint64) []byte {
		return encode(fuse.ReleaseIn{Fh: fh}, op, n, next(), "")
	}
	seek := func(n node, off uint64, whence uint32) []byte {
		return encode(fuse.LseekIn{Offset: off, Whence: whence}, opLseek, n, next(), "")
	}
	snapDir := snapDirNode(z.vm.vmID())

	for _, n := range []node{rootNode, z.vm, snapDir, z.snapshot, snapDirNode(0)} {
		opened, fh := open(opOpenDir, n, 0)
		add(opened, read(opReadDir, n, fh, 0, 4096), read(opReadDir, n, fh, 2, 100), read(opReadDirPlus, n, fh, 0, 4096),
			encode(fuse.FsyncIn{Fh: fh}, opFsyncDir, n, next(), ""), release(opReleaseDir, n, fh))
		add(read(opReadDir, n, fh, 0, math.MaxUint32))
	}
	for _, name := range []string{"web", "disk", ".snapshots", "one", "create", "snapshot.json", "memory", "", pollHack, "..", "no\x01", strings.Repeat("n", 300)} {
		for _, n := range []node{rootNode, z.vm, snapDir, z.snapshot} {
			add(header(opLookup, n, name+"\x00"))
		}
	}
	all := []node{rootNode, z.vm, z.disk, snapDir, z.snapshot, z.view, controlNode(z.vm.vmID(), controlLog), memoryNode(z.snapshot.snapshotID()),
		aboutNode(z.snapshot.snapshotID()), fileNode(999), vmNode(999), makeNode(15, 1), controlNode(z.vm.vmID(), controls-1), 0}
	for _, n := range all {
		add(encode(fuse.GetAttrIn{}, opGetAttr, n, next(), ""), header(opStatfs, n, ""), header(opReadlink, n, ""))
		opened, fh := open(opOpen, n, 0)
		add(opened, read(opRead, n, fh, 0, 4096), read(opRead, n, fh, 9000, 100000), read(opRead, n, fh, math.MaxUint64, 1),
			encode(fuse.FsyncIn{Fh: fh}, opFsync, n, next(), ""), encode(fuse.FlushIn{Fh: fh}, opFlush, n, next(), ""), release(opRelease, n, fh))
		for _, valid := range []uint32{fuse.FATTR_MODE, fuse.FATTR_UID | fuse.FATTR_GID, fuse.FATTR_SIZE, fuse.FATTR_MTIME, fuse.FATTR_SIZE | fuse.FATTR_FH} {
			in := fuse.SetAttrIn{}
			in.Valid, in.Mode, in.Size = valid, 0o640, 5000
			add(encode(in, opSetAttr, n, next(), ""))
		}
		add(encode(fuse.FallocateIn{Length: 4096}, opFallocate, n, next(), ""), seek(n, 0, unix.SEEK_DATA), seek(n, 0, unix.SEEK_HOLE))
	}
	opened, fh := open(opOpen, z.disk, unix.O_RDWR)
	add(opened, write(z.disk, fh, 0, 0, "some"), write(z.disk, fh, 4096, unix.O_DSYNC, strings.Repeat("x", 4096)),
		write(z.disk, fh, 1<<40, 0, "far"), read(opRead, z.disk, fh, 0, maxIO), read(opRead, z.disk, fh, 0, math.MaxUint32),
		encode(fuse.FsyncIn{Fh: fh, FsyncFlags: 1}, opFsync, z.disk, next(), ""), release(opRelease, z.disk, fh))
	for _, mode := range []uint32{0, 1, 3, 0x10, 0x11, 0x20} {
		add(encode(fuse.FallocateIn{Fh: fh, Offset: 5000, Length: 9000, Mode: mode}, opFallocate, z.disk, next(), ""),
			encode(fuse.FallocateIn{Fh: fh, Offset: 1 << 62, Length: 4096, Mode: mode}, opFallocate, z.disk, next(), ""))
	}
	add(encode(fuse.MkdirIn{Mode: 0o755}, opMkdir, rootNode, next(), "db\x00"), header(opRmdir, rootNode, "db\x00"))
	add(encode(fuse.MkdirIn{Mode: 0o755}, opMkdir, snapDir, next(), "two\x00"), header(opRmdir, snapDir, "two\x00"))
	add(encode(fuse.MknodIn{Mode: 0o100600}, opMknod, z.vm, next(), "a\x00"),
		encode(fuse.RenameIn{Newdir: uint64(z.vm)}, opRename2, z.vm, next(), "a\x00b\x00"), header(opUnlink, z.vm, "b\x00"))
	created := next()
	add(encode(fuse.CreateIn{Flags: unix.O_RDWR | unix.O_EXCL, Mode: 0o600}, opCreate, z.vm, created, "c\x00"),
		encode(struct {
			fuse.InHeader
			Newdir uint64
		}{Newdir: uint64(z.vm)}, opRename, z.vm, next(), "c\x00d\x00"), header(opUnlink, z.vm, "d\x00"), header(opSyncfs, z.vm, "\x00\x00\x00\x00\x00\x00\x00\x00"))
	for which, texts := range map[control][]string{
		controlCreate: {"two", `{"name": "three", "description": "x"}`, "\xff"}, controlDelete: {"two", "one..three"}, controlRename: {"one to=uno", "uno to=one"},
		controlRevert: {"one discard=true force=true", "two"}, controlPreview: {"one force=true"}, controlUndo: {"", "force=true"}, controlCommit: {"\n"},
		controlClone: {"one to=web2"}, controlPolicy: {`{"limit": {"snapshots": 5}}`, `{`}, controlScrub: {""}, controlFormat: {"2", "99"}, controlLog: {"x"},
	} {
		n := controlNode(z.vm.vmID(), which)
		opened, fh := open(opOpen, n, unix.O_RDWR)
		requests := [][]byte{opened}
		for _, text := range texts {
			requests = append(requests, write(n, fh, 0, 0, text), read(opRead, n, fh, 0, 50), read(opRead, n, fh, 50, 4096))
		}
		add(append(requests, release(opRelease, n, fh))...)
	}
	add(header(opSymlink, z.vm, "l\x00target\x00"), encode(fuse.LinkIn{Oldnodeid: uint64(z.disk)}, opLink, z.vm, next(), "l\x00"))
	add(encode(fuse.GetXAttrIn{Size: 100}, opGetXAttr, z.disk, next(), "user.x\x00"), encode(fuse.GetXAttrIn{Size: math.MaxUint32}, opListXAttr, z.disk, next(), ""),
		encode(fuse.SetXAttrIn{Size: 1}, opSetXAttr, z.disk, next(), "user.x\x00y"), header(opRemoveXAttr, z.disk, "user.x\x00"))
	add(encode(fuse.LkIn{}, opGetLk, z.disk, next(), ""), encode(fuse.LkIn{}, opSetLk, z.disk, next(), ""), encode(fuse.AccessIn{}, opAccess, z.disk, next(), ""))
	add(encode(fuse.IoctlIn{OutSize: math.MaxUint32}, opIoctl, z.disk, next(), ""), header(opPoll, z.disk, strings.Repeat("\x00", 24)), header(opBmap, z.disk, strings.Repeat("\x00", 16)))
	add(encode(fuse.CopyFileRangeIn{}, opCopyFileRange, z.disk, next(), ""), header(opStatx, z.disk, strings.Repeat("\x00", 24)), header(opDestroy, 0, ""),
		encode(fuse.CreateIn{Mode: 0o600}, opTmpfile, z.vm, next(), "/\x00"))
	add(encode(fuse.ForgetIn{Nlookup: 1}, opForget, z.disk, next(), ""), header(opBatchForget, 0, "\x01\x00\x00\x00\x00\x00\x00\x00"), encode(fuse.InterruptIn{Unique: 4}, opInterrupt, 0, 5, ""),
		header(opNotifyReply, z.disk, strings.Repeat("\x00", 40)))
	add(encode(fuse.GetAttrIn{}, opGetAttr, z.disk, next()|resent, ""), write(z.disk, 4, 0, 0, "again")[:70], read(opRead, z.disk, 4, 0, 10)[:50], header(99, z.disk, ""))
	return seeds
}
