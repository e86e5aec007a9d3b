// Package layer keeps virtual machines' disks as stacks of copy-on-write layers, and everything that is done to the
// stacks: snapshots, reverts, deletes, and giving space back.
//
// # Model
//
// A [Store] holds VMs, a [VM] files and snapshots. A [File] is read through a chain of layers: its head, which alone
// is written, and below it the layers that snapshots sealed. A layer's data file is sparse and block b lies in it at
// offset b×4096, so an overwrite in the head is one pwrite in place, and a run of blocks of one layer one pread.
// Which layer owns which block is the index's to say (package blockmap): presence bits in Badger, and a map in memory
// from block to layer for each chain in use, so that a read costs the same whatever the depth.
//
// Layers stand in lineages, straight runs with rising ids. A snapshot seals the heads of a VM and puts new ones over
// them, in the same lineages; a revert puts new heads over a snapshot's layers, in lineages that grow from them.
// Neither moves data. Deleting a snapshot retires its layers: blocks of them that no reader can see any more are
// punched out in the background, and a layer without blocks leaves.
//
// # Order of writes
//
// Data is synced, then the index committed, then the new state published in memory, then what is old deleted; so a
// crash leaves at worst data that nothing names. docs/crash-safety.md lists the orders and what each gap leaves.
//
// # Locks
//
// From the outside in; whoever holds one takes only those behind it:
//
//	VM.op          one namespace or snapshot operation of a VM at a time
//	VM.logFlush    one flush for want of room in the session log at a time
//	VM.sealing     held while heads are sealed: flushes wait for it
//	head.flushing  one flush of a layer at a time; of one that goes to the journal, who writes that lets go of both
//	VM.barrier     shared by every change to a file, exclusive for the instant in which heads are swapped
//	File.stripes   the blocks that are being taken over by the head
//	Map regions    loading and changing the map (blockmap)
//	Store.chains   shared while a chain is made and put to use
//	Store.tree     how layers, lineages and snapshots hang together; never held across an index transaction
//	VM.mu, File.mu names, attributes, handles
//	Session, ring  the open table, and a VM's session log
//	journal        what of it is in use; head.written, too, is taken alone
//
//	windows        what is mapped; held while epochs are waited for
//
// Reads take none of them. They publish an epoch, and whoever frees what they might be reading waits for it.
package layer
