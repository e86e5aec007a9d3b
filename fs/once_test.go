package fs

// Requests that a worker did and did not answer, sent again to the next one.

import (
	"encoding/json"
	"syscall"
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
	id := r.id
	h := fuse.InHeader{Unique: id, NodeId: uint64(dir)}
	require.Equal(r, fuse.OK, do(r.now, h))
	for range 2 {
		r.next()
		h.Unique = id | resent
		require.Equal(r, fuse.OK, do(r.now, h))
	}
	r.store.Answered(id)
}

func (r *relay) find(dir node, name string) node {
	r.Helper()
	n, err := r.now.lookup(dir, name)
	require.NoError(r, err)
	return n
}

// Each way to make, rename and remove something by its name.
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

// Each command, and its answer.
func TestCommandsOnce(t *testing.T) {
	r := newRelay(t)
	web, err := r.store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	_, _, err = web.Create("root.img", 0o600, 0, 0, true)
	require.NoError(t, err)
	dir := snapDirNode(web.ID())
	for _, c := range []struct{ control, text, has, want string }{
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
		n := r.find(dir, c.control)
		fh := r.open(n)
		var first string
		r.twice(n, func(s *server, h fuse.InHeader) fuse.Status {
			require.NoError(t, s.write(&fuse.WriteIn{InHeader: h, Fh: fh}, []byte(c.text+"\n"), true))
			answer := r.readAll(n, fh)
			if first == "" {
				first = answer
			}
			require.Equal(t, first, answer)
			var members map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(answer), &members), "%s", answer)
			require.Contains(t, string(members[c.has]), c.want)
			return fuse.OK
		})
		r.now.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: uint64(n)}, Fh: fh})
		_, known := r.store.DoneThrough(fh)
		require.False(t, known)
	}
}

// An answer is read on where it was when a worker died, also if that was amid a read.
func TestReadOn(t *testing.T) {
	r := newRelay(t)
	web, err := r.store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	dir := snapDirNode(web.ID())
	r.id += 2
	create := r.find(dir, "create")
	fh := r.open(create)
	in := &fuse.WriteIn{InHeader: fuse.InHeader{Unique: r.id, NodeId: uint64(create)}, Fh: fh}
	require.NoError(t, r.now.write(in, []byte("one"), true))
	other := r.open(create)
	r.next()
	answer := r.readInTurn(create, fh)
	var a createAnswer
	require.NoError(t, json.Unmarshal([]byte(answer), &a), "%s", answer)
	require.Equal(t, "one", a.Snapshot.Name)
	require.Equal(t, controlCreate.usage(), r.readInTurn(create, other))
	r.now.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: uint64(create)}, Fh: fh})
	_, err = r.now.readControl(create, &fuse.ReadIn{Fh: fh}, make([]byte, 1))
	require.ErrorIs(t, err, errStale)
}

// What is read in pieces is of one moment, whoever gives it: the rest is that of the text which has been begun.
func TestReadOfOneMoment(t *testing.T) {
	r := newRelay(t)
	web, err := r.store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	names := func(text string) (names []string) {
		var all []layer.SnapshotInfo
		require.NoError(t, json.Unmarshal([]byte(text), &all), "%s", text)
		for _, s := range all {
			names = append(names, s.Name)
		}
		return names
	}
	list, create := r.find(snapDirNode(web.ID()), "list"), r.find(snapDirNode(web.ID()), "create")
	fh, command := r.open(create), r.open(create)
	for _, name := range []string{"one", "second", "the-third"} {
		r.id += 2
		in := &fuse.WriteIn{InHeader: fuse.InHeader{Unique: r.id, NodeId: uint64(create)}, Fh: fh}
		if name == "one" {
			require.NoError(t, r.now.write(in, []byte(name), true))
			continue
		}
		begun := r.openWith(list, syscall.O_RDONLY)
		part := r.read(list, begun, r.id+2, 50)
		r.id += 2
		require.NoError(t, r.now.write(in, []byte(name), true))
		require.NotContains(t, names(part+r.readInTurn(list, begun)), name)
		r.now.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: uint64(list)}, Fh: begun})
		_, kept := r.store.Session().Text(layer.Handle(begun))
		require.False(t, kept)
	}
	// A command's answer takes the place of what was being read.
	require.Len(t, r.read(create, command, r.id+2, 9), 9)
	r.id += 4
	in := &fuse.WriteIn{InHeader: fuse.InHeader{Unique: r.id, NodeId: uint64(create)}, Fh: command}
	require.NoError(t, r.now.write(in, []byte("fourth"), true))
	require.Contains(t, r.readInTurn(create, command), `"fourth"`)
}

func (r *relay) open(n node) (fh uint64) {
	r.Helper()
	return r.openWith(n, syscall.O_RDWR)
}

func (r *relay) openWith(n node, flags uint32) (fh uint64) {
	r.Helper()
	r.id += 2
	var out fuse.OpenOut
	in := &fuse.OpenIn{InHeader: fuse.InHeader{Unique: r.id, NodeId: uint64(n)}, Flags: flags}
	require.Equal(r, fuse.OK, r.now.Open(nil, in, &out))
	return out.Fh
}

// readAll reads an open control file to its end.
func (r *relay) readAll(n node, fh uint64) (text string) {
	r.Helper()
	for {
		r.id += 2
		part := r.read(n, fh, r.id, 200)
		if part == "" {
			return text
		}
		text += part
	}
}

// readInTurn does so with a worker for each read, which the one before it did already and did not answer.
func (r *relay) readInTurn(n node, fh uint64) (text string) {
	r.Helper()
	for {
		r.id += 2
		first := r.read(n, fh, r.id, 50)
		r.next()
		part := r.read(n, fh, r.id|resent, 50)
		require.Equal(r, first, part)
		if part == "" {
			return text
		}
		text += part
		if len(text)%100 == 0 {
			r.next() // with all answered
		}
	}
}

func (r *relay) read(n node, fh, id uint64, size int) string {
	r.Helper()
	p := make([]byte, size)
	read, err := r.now.read(&fuse.ReadIn{InHeader: fuse.InHeader{Unique: id, NodeId: uint64(n)}, Fh: fh}, p)
	require.NoError(r, err)
	return string(p[:read])
}

// Who opened a control file is known to the next worker: root is not made to write what only root may.
func TestOpenerIsKnown(t *testing.T) {
	r := newRelay(t)
	web, err := r.store.CreateVM("web", 0o755, 7, 7)
	require.NoError(t, err)
	policy := controlNode(web.ID(), controlPolicy)
	r.id += 2
	open := fuse.OpenIn{InHeader: fuse.InHeader{Unique: r.id, NodeId: uint64(policy)}, Flags: 2}
	open.Uid = 7
	var out fuse.OpenOut
	require.Equal(t, fuse.OK, r.now.Open(nil, &open, &out))
	r.next()
	write := &fuse.WriteIn{InHeader: fuse.InHeader{Unique: r.id + 2, NodeId: uint64(policy)}, Fh: out.Fh} // by root
	err = r.now.write(write, []byte(`{"quiesce": {"mode": "none", "pre": ["/etc/pre"]}}`), true)
	require.Equal(t, syscall.EPERM, layer.Errno(err))
}
