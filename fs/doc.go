// Package fs shows a layer.Store as a FUSE file system: session, nodes, control files, errno.
//
// # Session
//
// The kernel's requests come in through several descriptors of one FUSE session, each with a reader loop of its
// own, locked to a thread (loop.go). A loop answers READ and WRITE itself, without allocating. Nothing waits on a
// loop, or one VM's freeze would stop all: what has to wait is handed to a goroutine, which answers later through
// the descriptor that the request came from. All other requests go to go-fuse's protocol server, in goroutines.
//
// The kernel hands requests out in their order. When no loop is idle they are read ahead, through a descriptor more that
// does not block, and the VMs take turns (turns.go).
//
// A request that runs is noted in the session's memory. One that ran whenever workers died by a panic or a fault runs
// alone, and then no more (suspects.go).
//
// # Nodes
//
// A node id is a pure function of what the store calls the thing (node.go), and a handle is the unique id of the
// OPEN that made it. So nothing is kept per node, FORGET has nothing to do, and another process that takes the
// session over understands every id that the kernel holds. An id whose thing is gone answers ESTALE.
//
// # Caching
//
// A revert changes names and sizes while the kernel looks the other way, and notifying it from within a request
// deadlocks on the locks that this request holds. So the kernel may keep neither names nor attributes, except those
// that change through the kernel alone, the names of VMs and .snapshots, and the attributes and pages of snapshots'
// files, which never change. Disks are direct I/O with parallel writes.
//
// # Failures
//
// Errors become errnos in one place (errno.go). A panic ends the process: an errno in its stead would go unnoticed.
package fs
