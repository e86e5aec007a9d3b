package fs

// The kernel's requests: their codes, and their names for people.

import "fmt"

// Request codes of linux/fuse.h.
const (
	opLookup      = 1
	opForget      = 2
	opGetAttr     = 3
	opSetAttr     = 4
	opReadlink    = 5
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opGetXAttr    = 22
	opListXAttr   = 23
	opFlush       = 25
	opOpenDir     = 27
	opReadDir     = 28
	opReleaseDir  = 29
	opFsyncDir    = 30
	opCreate      = 35
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opFallocate   = 43
	opRename2     = 45
	opLseek       = 46
	opStatx       = 52
)

// opNames are for those that there is something to say of.
var opNames = map[uint32]string{
	opLookup: "LOOKUP", opGetAttr: "GETATTR", opSetAttr: "SETATTR", opReadlink: "READLINK", opSymlink: "SYMLINK",
	opMknod: "MKNOD", opMkdir: "MKDIR", opUnlink: "UNLINK", opRmdir: "RMDIR", opRename: "RENAME", opLink: "LINK",
	opOpen: "OPEN", opRead: "READ", opWrite: "WRITE", opStatfs: "STATFS", opRelease: "RELEASE", opFsync: "FSYNC",
	opFlush: "FLUSH", opOpenDir: "OPENDIR", opReadDir: "READDIR", opReleaseDir: "RELEASEDIR", opFsyncDir: "FSYNCDIR",
	opCreate: "CREATE", opFallocate: "FALLOCATE", opRename2: "RENAME2", opLseek: "LSEEK",
}

func opName(op uint32) string {
	if name, ok := opNames[op]; ok {
		return name
	}
	return fmt.Sprintf("request %d", op)
}
