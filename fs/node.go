package fs

// Node ids: a pure function of the store's own ids, so that they mean the same to every process that serves them.

import "github.com/snapfs/snapfs/layer"

// node is a FUSE node id, and the inode number that stat(2) shows. The top 4 bits are the kind, the rest is the id
// that the store has for the thing. A control file's is that of its VM, then 4 bits for which of them it is.
type node uint64

type kind uint64

const (
	kindRoot     kind = iota // the mount's root, which FUSE fixes at 1
	kindVM                   // VMID
	kindFile                 // FileID
	kindSnapDir              // .snapshots: VMID, 0 for the mount's own
	kindSnapshot             // SnapshotID
	kindView                 // LayerID: a file of a snapshot is the layer that was sealed for it
	kindControl              // VMID<<4 | which, 0 for the mount's own
	kindMemory               // SnapshotID: what it has of the machine's memory
	kindAbout                // SnapshotID: its snapshot.json
)

const (
	kindShift = 60
	idMask    = 1<<kindShift - 1

	rootNode node = 1
)

func makeNode(k kind, id uint64) node { return node(uint64(k)<<kindShift | id&idMask) }

func vmNode(id layer.VMID) node             { return makeNode(kindVM, uint64(id)) }
func fileNode(id layer.FileID) node         { return makeNode(kindFile, uint64(id)) }
func snapDirNode(vm layer.VMID) node        { return makeNode(kindSnapDir, uint64(vm)) }
func snapshotNode(id layer.SnapshotID) node { return makeNode(kindSnapshot, uint64(id)) }
func viewNode(id layer.LayerID) node        { return makeNode(kindView, uint64(id)) }
func controlNode(vm layer.VMID, which control) node {
	return makeNode(kindControl, uint64(vm)<<4|uint64(which))
}
func memoryNode(id layer.SnapshotID) node   { return makeNode(kindMemory, uint64(id)) }
func aboutNode(id layer.SnapshotID) node    { return makeNode(kindAbout, uint64(id)) }
func (n node) kind() kind                   { return kind(n >> kindShift) }
func (n node) id() uint64                   { return uint64(n) & idMask }
func (n node) vmID() layer.VMID             { return layer.VMID(n.id()) }
func (n node) fileID() layer.FileID         { return layer.FileID(n.id()) }
func (n node) snapshotID() layer.SnapshotID { return layer.SnapshotID(n.id()) }
func (n node) layerID() layer.LayerID       { return layer.LayerID(n.id()) }
func (n node) control() (vm layer.VMID, which control) {
	return layer.VMID(n.id() >> 4), control(n.id() % controls)
}
