// Package blockmap knows which layer holds which block of a disk.
//
// # Model
//
// A disk is seen through a chain of layers, newest first. A layer says of each block of 4 KiB that its own data file holds it
// (data), that it reads as zeros (zero), or nothing, and then the next older layer answers; what nobody answers reads as
// zeros. A cut says that from some block up nothing below a layer shows. 1,024 blocks are a region: what one layer says of
// one region is a Record of two bitmaps.
//
// Records live in the Index, a Badger database that the catalog of the store shares, so that one transaction moves a whole
// VM from one state to the next. This is the only package that knows about Badger.
//
// Resolving a region walks the chain's records downwards, and the first that decides a block wins. The result, an owner for
// each block, is a leaf of a Map. Lookups in a Map take no lock, allocate nothing, and cost the same however deep the chain
// is. The leaves of all Maps share the budget of a Cache: memory depends on neither the size of disks nor their number.
//
// # Bytes
//
// Record keys begin with 'r'; all other keys belong to the catalog, and what is in those is not known here.
//
//	key    'r' | lineage, 8 bytes | region, 8 bytes | ^layer, 8 bytes      big endian
//	value  tag | data, 128 bytes if raw | zero, 128 bytes if raw           see Record.AppendBinary
//
// # Crashes
//
// When Update has returned nil, all it wrote is on disk; when the process or the host dies before, all of it or nothing
// is there afterwards. Nothing is ever in the index that was not passed to an Update.
//
// What changed and is not committed is in memory only, as Dirty keeps it: a flush takes a copy with Begin, syncs the data
// file, commits exactly that copy, and calls End. A crash before the commit loses bits of blocks nobody was promised. After
// a failed commit the copy goes back, no View shows any of it, and the Index refuses all later Updates, as part of it may
// be on disk.
//
// Open removes files of no bytes that a crash inside Badger left, which would keep it from opening. Badger syncs its new
// files but not always the directory they are in: it counts on the file system to make a new file's name durable with
// its content, as ext4, XFS and btrfs do.
//
// # Locks
//
// Outermost first: a region's lock of a Map (one at a time, striped), Cache.mu, Dirty.mu. Loading a region calls the overlay
// and opens its View under the region's lock. The goroutine that runs Updates takes no lock of a Map or Cache.
package blockmap
