package fs

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/layer"
)

// Ids go through node ids and back, whatever they are, and no two things share a node id.
func TestNodeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint64Range(1, 1<<56-1).Draw(t, "id")
		which := control(rapid.IntRange(0, len(usages)-1).Draw(t, "which"))
		nodes := map[node]kind{
			rootNode:                             kindRoot,
			vmNode(layer.VMID(id)):               kindVM,
			fileNode(layer.FileID(id)):           kindFile,
			snapDirNode(layer.VMID(id)):          kindSnapDir,
			snapDirNode(0):                       kindSnapDir,
			snapshotNode(layer.SnapshotID(id)):   kindSnapshot,
			viewNode(layer.LayerID(id)):          kindView,
			memoryNode(layer.SnapshotID(id)):     kindMemory,
			aboutNode(layer.SnapshotID(id)):      kindAbout,
			controlNode(layer.VMID(id), which):   kindControl,
			controlNode(layer.VMID(0), which):    kindControl,
			controlNode(layer.VMID(id), which^1): kindControl,
		}
		require.Len(t, nodes, 12)
		for n, k := range nodes {
			require.Equal(t, k, n.kind())
		}
		require.EqualValues(t, id, vmNode(layer.VMID(id)).vmID())
		require.EqualValues(t, id, fileNode(layer.FileID(id)).fileID())
		require.EqualValues(t, id, snapDirNode(layer.VMID(id)).vmID())
		require.EqualValues(t, id, snapshotNode(layer.SnapshotID(id)).snapshotID())
		require.EqualValues(t, id, memoryNode(layer.SnapshotID(id)).snapshotID())
		require.EqualValues(t, id, aboutNode(layer.SnapshotID(id)).snapshotID())
		require.EqualValues(t, id, viewNode(layer.LayerID(id)).layerID())
		vm, c := controlNode(layer.VMID(id), which).control()
		require.EqualValues(t, id, vm)
		require.Equal(t, which, c)
	})
}

// The kernel keeps node ids across a change of process, perhaps to a newer version: they must not change.
func TestNodeNumbersStay(t *testing.T) {
	require.EqualValues(t, 0x1000000000000002, vmNode(2))
	require.EqualValues(t, 0x2000000000000003, fileNode(3))
	require.EqualValues(t, 0x3000000000000002, snapDirNode(2))
	require.EqualValues(t, 0x4000000000000005, snapshotNode(5))
	require.EqualValues(t, 0x5000000000000006, viewNode(6))
	require.EqualValues(t, 0x7000000000000005, memoryNode(5))
	require.EqualValues(t, uint64(0x8000000000000005), aboutNode(5))
	require.EqualValues(t, 0x6000000000000020, controlNode(2, controlCreate))
	require.EqualValues(t, 0x6000000000000027, controlNode(2, controlLog))
}
