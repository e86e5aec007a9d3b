package fs

// Requests that a worker did and did not answer, sent again to the next one.

import (
	"encoding/json"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

// relay is a store that one worker after another serves. The kernel's part is played: it can't be made to send a request
// again at a chosen moment.
type relay struct {
	*testing.T
	store *layer.Store
	now   *server
	id    uint64 // of the last request
}

func newRelay(t *testing.T) *relay {
	store, err := layer.Open(t.TempDir(), layer.Options{Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(t, err)
	r := &relay{T: t, store: store, now: newServer(store, relayOptions()), id: 100}
	t.Cleanup(func() { require.NoError(t, r.store.Close()) })
	return r
}

func relayOptions() Options {
	o := Options{}
	o.ensureDefaults()
	return o
}

// next has another worker go on. Nothing tells the index of the one before that its requests are answered.
func (r *relay) next() {
	require.NoError(r, r.store.Close())
	store, err := layer.Open(r.store.Dir(), layer.Options{Session: r.store.Session(), Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(r, err)
	r.store, r.now = store, newServer(store, relayOptions())
}

// twice has a request done by a worker and sent again to the next one, and the one after that.
func (r *relay) twice(dir node, do func(s *server, h fuse.InHeader) fuse.Status) {
	r.Helper()
	r.id += 2
	h := fuse.InHeader{Unique: r.id, NodeId: uint64(dir)}
	require.Equal(r, fuse.OK, do(r.now, h))
	for range 2 {
		r.next()
		h.Unique = r.id | resent
		require.Equal(r, fuse.OK, do(r.now, h))
	}
	r.store.Answered(r.id)
}

func (r *relay) find(dir node, name string) node {
	r.Helper()
	n, err := r.now.lookup(dir, name)
	require.NoError(r, err)
	return n
}

func TestNamesOnce(t *testing.T) {
	r := newRelay(t)
	mkdir := func(dir node, name string) {
		t.Helper()
		var out fuse.EntryOut
		r.twice(dir, func(s *server, h fuse.InHeader) fuse.Status {
			return s.Mkdir(nil, &fuse.MkdirIn{InHeader: h, Mode: 0o755}, name, &out)
		})
		require.Equal(t, uint64(r.find(dir, name)), out.NodeId)
	}
	rename := func(dir node, old, new string) {
		t.Helper()
		r.twice(dir, func(s *server, h fuse.InHeader) fuse.Status {
			return s.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: uint64(dir)}, old, new)
		})
		r.find(dir, new)
	}
	rmdir := func(dir node, name string) {
		t.Helper()
		r.twice(dir, func(s *server, h fuse.InHeader) fuse.Status { return s.Rmdir(nil, &h, name) })
		_, err := r.now.lookup(dir, name)
		require.Error(t, err)
	}
	mkdir(rootNode, "web")
	rename(rootNode, "web", "shop")
	vm := r.find(rootNode, "shop")

	var made fuse.CreateOut
	r.twice(vm, func(s *server, h fuse.InHeader) fuse.Status {
		return s.Create(nil, &fuse.CreateIn{InHeader: h, Flags: 0o302, Mode: 0o600}, "root.img", &made) // O_RDWR|O_CREAT|O_EXCL
	})
	require.Equal(t, r.id, made.Fh)
	require.Equal(t, uint64(r.find(vm, "root.img")), made.NodeId)
	r.twice(vm, func(s *server, h fuse.InHeader) fuse.Status {
		return s.Mknod(nil, &fuse.MknodIn{InHeader: h, Mode: 0o100600}, "data.img", new(fuse.EntryOut))
	})
	rename(vm, "data.img", "root.img")
	r.twice(vm, func(s *server, h fuse.InHeader) fuse.Status { return s.Unlink(nil, &h, "root.img") })
	r.now.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: made.NodeId}, Fh: made.Fh})

	snapshots := r.find(vm, layer.SnapDir)
	mkdir(snapshots, "one")
	rename(snapshots, "one", "first")
	rmdir(snapshots, "first")
	rmdir(rootNode, "shop")
}

func TestCommandsOnce(t *testing.T) {
	r := newRelay(t)
	web, err := r.store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	_, _, err = web.Create("root.img", 0o600, 0, 0, true)
	require.NoError(t, err)
	dir := snapDirNode(web.ID())
	for i, c := range []struct{ control, text, has, want string }{
		{"create", "one", "snapshot", "one"},
		{"create", `{"name": "two", "description": "the second"}`, "snapshot", "two"},
		{"rename", "two to=second", "snapshot", "second"},
		{"clone", "one to=web2", "vm", "web2"},
		{"preview", "one", "message", "the VM's files are those of one, until undo or for good with commit"},
		{"undo", "", "message", "the VM's files are what they were before the preview of one"},
		{"preview", "second", "snapshot", "second"},
		{"commit", "", "snapshot", "second"},
		{"revert", "one files=root.img", "message", "of the VM's files, root.img are those of one"},
		{"delete", "second", "snapshot", "second"},
		{"delete", "one..one", "snapshots", "one"},
	} {
		n, fh := r.find(dir, c.control), uint64(1000+2*i)
		var first string
		r.twice(n, func(s *server, h fuse.InHeader) fuse.Status {
			text := r.command(n, &fuse.WriteIn{InHeader: h, Fh: fh}, c.text)
			require.Contains(t, text[c.has], c.want)
			delete(text, "paused_ms")
			again, err := json.Marshal(text)
			require.NoError(t, err)
			if first == "" {
				first = string(again)
			}
			require.JSONEq(t, first, string(again))
			return fuse.OK
		})
		r.next() // with the command answered, and its answer not read yet
		require.Contains(t, r.answer(n, fh)[c.has], c.want)
		r.now.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: uint64(n)}, Fh: fh})
		_, known := r.store.DoneThrough(fh)
		require.False(t, known)
	}
}

// command sends a command and returns its answer, each of its members as text.
func (r *relay) command(n node, in *fuse.WriteIn, text string) map[string]string {
	r.Helper()
	require.NoError(r, r.now.write(in, []byte(text+"\n"), true))
	return r.answer(n, in.Fh)
}

func (r *relay) answer(n node, fh uint64) map[string]string {
	r.Helper()
	p := make([]byte, 1<<20)
	size, err := r.now.read(&fuse.ReadIn{InHeader: fuse.InHeader{NodeId: uint64(n)}, Fh: fh}, p, true)
	require.NoError(r, err)
	var members map[string]json.RawMessage
	require.NoError(r, json.Unmarshal(p[:size], &members), "%s", p[:size])
	texts := make(map[string]string)
	for key, value := range members {
		texts[key] = string(value)
	}
	return texts
}
