// Command loopback mounts a directory with a bare go-fuse server that passes every request on to the same file there. It
// is what the benchmark compares with to tell what FUSE and Go cost from what snapfs does.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: loopback DIR MOUNTPOINT")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
}

func serve(dir, mountpoint string) error {
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		return err
	}
	server, err := fs.Mount(mountpoint, &node{root.(*fs.LoopbackNode)}, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMount: true, MaxWrite: 1 << 20, ExtraCapabilities: fuse.CAP_ASYNC_DIO,
	}})
	if err != nil {
		return err
	}
	server.Wait()
	return nil
}

// node is go-fuse's own, but for files, which lie in the host's page cache whatever flags they are opened with.
type node struct{ *fs.LoopbackNode }

func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode)}
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags&^unix.O_DIRECT)
	if errno != 0 {
		return nil, 0, errno
	}
	f := h.(*fs.LoopbackFile)
	return &file{f, f, f}, fuseFlags | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_DIRECT_IO, 0
}

// file is an open file of go-fuse's without its passthrough, by which the kernel would go around the server.
type file struct {
	fs.FileReader
	fs.FileWriter
	fs.FileFsyncer
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.FileReader      = (*file)(nil)
	_ fs.FileWriter      = (*file)(nil)
	_ fs.FileFsyncer     = (*file)(nil)
)
