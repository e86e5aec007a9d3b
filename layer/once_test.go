package layer

// Operations that must not be done twice: the next worker knows of exactly those that were done.

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

// onceOp is an operation on VM web, which has the files a and b, the snapshots one and two, and with previews a preview
// of one. done says whether a store shows its effect.
type onceOp struct {
	previews bool
	do       func(s *Store, v *VM, by Request) error
	done     func(s *Store, v *VM) bool
	want     Outcome // names of snapshots alone; Kept: any if not empty
}

func hasVM(s *Store, name string) bool    { _, err := s.VM(name); return err == nil }
func hasFile(v *VM, name string) bool     { _, err := v.Lookup(name); return err == nil }
func hasSnapshot(v *VM, name string) bool { _, err := v.Snapshot(name); return err == nil }

func namedOutcome(name string) Outcome { return Outcome{Snapshots: []SnapshotInfo{{Name: name}}} }

var onceOps = map[string]onceOp{
	"create a VM": {
		do:   func(s *Store, _ *VM, by Request) error { _, err := s.CreateVM("db", 0o755, 0, 0, by); return err },
		done: func(s *Store, _ *VM) bool { return hasVM(s, "db") },
	},
	"remove a VM": {
		do:   func(s *Store, _ *VM, by Request) error { return s.RemoveVM("empty", by) },
		done: func(s *Store, _ *VM) bool { return !hasVM(s, "empty") },
	},
	"rename a VM": {
		do:   func(s *Store, _ *VM, by Request) error { return s.RenameVM("empty", "db", false, by) },
		done: func(s *Store, _ *VM) bool { return hasVM(s, "db") },
	},
	"create a file": {
		do:   func(_ *Store, v *VM, by Request) error { _, _, err := v.Create("c", 0o600, 0, 0, true, by); return err },
		done: func(_ *Store, v *VM) bool { return hasFile(v, "c") },
	},
	"unlink": {
		do:   func(_ *Store, v *VM, by Request) error { return v.Unlink("b", by) },
		done: func(_ *Store, v *VM) bool { return !hasFile(v, "b") },
	},
	"rename": {
		do:   func(_ *Store, v *VM, by Request) error { return v.Rename("a", "c", 0, by) },
		done: func(_ *Store, v *VM) bool { return hasFile(v, "c") },
	},
	"rename over another": {
		do:   func(_ *Store, v *VM, by Request) error { return v.Rename("a", "b", 0, by) },
		done: func(_ *Store, v *VM) bool { return !hasFile(v, "a") },
	},
	"create a snapshot": {
		do: func(_ *Store, v *VM, by Request) error {
			_, err := v.CreateSnapshot(CreateOptions{Name: "three", By: by})
			return err
		},
		done: func(_ *Store, v *VM) bool { return hasSnapshot(v, "three") },
		want: namedOutcome("three"),
	},
	"delete snapshots": {
		do: func(_ *Store, v *VM, by Request) error {
			_, err := v.DeleteSnapshots([]string{"one", "two"}, by)
			return err
		},
		done: func(_ *Store, v *VM) bool { return !hasSnapshot(v, "one") },
		want: Outcome{Snapshots: []SnapshotInfo{{Name: "one"}, {Name: "two"}}},
	},
	"rename a snapshot": {
		do:   func(_ *Store, v *VM, by Request) error { _, err := v.RenameSnapshot("one", "first", by); return err },
		done: func(_ *Store, v *VM) bool { return hasSnapshot(v, "first") },
		want: namedOutcome("first"),
	},
	"clone": {
		do:   func(_ *Store, v *VM, by Request) error { _, err := v.Clone("one", "web2", by); return err },
		done: func(s *Store, _ *VM) bool { return hasVM(s, "web2") },
		want: Outcome{Snapshots: []SnapshotInfo{{Name: "one"}}, VM: "web2"},
	},
	"revert": {
		do: func(_ *Store, v *VM, by Request) error {
			_, err := v.Revert(RevertOptions{Name: "one", Force: true, By: by})
			return err
		},
		done: func(_ *Store, v *VM) bool { return !hasFile(v, "b") },
		want: Outcome{Snapshots: []SnapshotInfo{{Name: "one"}}, Kept: "any", Reset: true},
	},
	"preview": {
		do: func(_ *Store, v *VM, by Request) error {
			_, err := v.Preview(PreviewOptions{Name: "one", Force: true, By: by})
			return err
		},
		done: func(_ *Store, v *VM) bool { return v.preview != 0 },
		want: Outcome{Snapshots: []SnapshotInfo{{Name: "one"}}, Reset: true},
	},
	"commit a preview": {
		previews: true,
		do:       func(_ *Store, v *VM, by Request) error { _, err := v.CommitPreview(by); return err },
		done:     func(_ *Store, v *VM) bool { return v.preview == 0 },
		want:     Outcome{Snapshots: []SnapshotInfo{{Name: "one"}}, Kept: "any"},
	},
	"undo": {
		previews: true,
		do:       func(_ *Store, v *VM, by Request) error { _, err := v.Undo(true, by); return err },
		done:     func(_ *Store, v *VM) bool { return v.preview == 0 },
		want:     Outcome{Snapshots: []SnapshotInfo{{Name: "one"}}, Reset: true},
	},
}

// onceStore is what the operations are done on. File a is open for writing.
func onceStore(t *testing.T, op onceOp) *Store {
	t.Helper()
	s := newStore(t, Options{})
	makeVM(t, s, "empty")
	v := makeVM(t, s, "web")
	a := makeFile(t, v, "a", 2*blockSize)
	write(t, a, blocksOf(1, 2), 0)
	require.NoError(t, a.Open(1, true))
	snapshot(t, v, "one")
	makeFile(t, v, "b", blockSize)
	write(t, a, blocksOf(2, 1), 0)
	snapshot(t, v, "two")
	if op.previews {
		_, err := v.Preview(PreviewOptions{Name: "one", Force: true})
		require.NoError(t, err)
	}
	write(t, fileNamed(t, v, "a"), blocksOf(3, 1), blockSize)
	settle(t, s)
	return s
}

const onceID, onceHandle = 42, 17

// The worker dies at each commit that an operation makes, before or after it is on disk.
func TestOnce(t *testing.T) {
	for name, op := range onceOps {
		if !oneIn(4) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for n, hit := 1, true; hit; n++ {
				for _, durable := range []bool{false, true} {
					hit = dieAt(t, op, n, durable)
				}
			}
		})
	}
}

// dieAt has the operation's n-th commit fail, which is on disk nevertheless if durable, and the next worker take over.
func dieAt(t *testing.T, op onceOp, n int, durable bool) (hit bool) {
	f := &failure{kind: "commit", n: n}
	commitFault = func(commit func() error) error {
		err := f.ask("commit")
		if err != nil && !durable {
			return err
		}
		return errors.Join(commit(), err)
	}
	defer func() { commitFault = nil }()
	s := onceStore(t, op)
	f.arm(true)
	err := op.do(s, vmNamed(t, s, "web"), Request{ID: onceID, Handle: onceHandle, Text: []byte("so")})
	hit = f.arm(false)
	if !hit { // or what failed may be a commit of the reclaimer's, after the operation
		require.NoError(t, err)
	}

	commitFault = nil
	for i := range s.session.failed {
		s.session.failed[i].Store(0) // a worker that dies marks nothing
	}
	s = takeOver(t, s)
	defer func() { require.NoError(t, s.Close()) }()
	v := vmNamed(t, s, "web")
	got, known := s.Done(onceID)
	require.Equal(t, op.done(s, v), known)
	through, alsoKnown := s.DoneThrough(onceHandle)
	require.Equal(t, known, alsoKnown)
	require.Equal(t, got, through)
	if known {
		op.requireOutcome(t, got)
	} else {
		require.NoError(t, op.do(s, v, Request{ID: onceID}))
	}
	return hit
}

func (op onceOp) requireOutcome(t *testing.T, got Outcome) {
	t.Helper()
	require.Equal(t, "so", string(got.Text))
	require.Len(t, got.Snapshots, len(op.want.Snapshots))
	for i, info := range op.want.Snapshots {
		require.Equal(t, info.Name, got.Snapshots[i].Name)
	}
	require.Equal(t, op.want.VM, got.VM)
	require.Equal(t, op.want.Reset, got.Reset)
	require.Equal(t, op.want.Kept != "", got.Kept != "")
}

// recorded are how many requests the index knows.
func recorded(t *testing.T, s *Store) (n int) {
	t.Helper()
	require.NoError(t, s.index.View(func(tx *blockmap.Tx) error {
		return scan(tx, tableDone, func(uint64, doneRecord) error { n++; return nil })
	}))
	return n
}

// A snapshot whose heads guests used already is completed by the next worker, and so is its request.
func TestOnceSwapped(t *testing.T) {
	for _, swapped := range []bool{false, true} {
		s := onceStore(t, onceOp{})
		p, err := vmNamed(t, s, "web").PrepareSnapshot(CreateOptions{Name: "three", By: Request{ID: onceID}})
		require.NoError(t, err)
		if swapped {
			p.Swap()
		}
		s = takeOver(t, s)
		_, known := s.Done(onceID)
		require.Equal(t, swapped, known)
		require.Equal(t, swapped, hasSnapshot(vmNamed(t, s, "web"), "three"))
		require.NoError(t, s.Close())
	}
}

// A snapshot that its verdict takes away was not made.
func TestOnceWithoutVerdict(t *testing.T) {
	s := onceStore(t, onceOp{})
	p, err := vmNamed(t, s, "web").PrepareSnapshot(CreateOptions{Name: "three", By: Request{ID: onceID}})
	require.NoError(t, err)
	p.Swap()
	_, err = p.Seal(func() Verdict {
		require.Equal(t, 1, recorded(t, s))
		return Verdict{Err: syscall.ETIMEDOUT}
	})
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	require.Zero(t, recorded(t, s))
	require.NoError(t, s.Close())
}

// Records go once they are answered, those with a handle when that is closed; at a cold start all go.
func TestOnceForgotten(t *testing.T) {
	s := onceStore(t, onceOp{})
	v := vmNamed(t, s, "web")
	require.NoError(t, v.Unlink("b", Request{ID: 1}))
	_, err := v.RenameSnapshot("one", "first", Request{ID: 2, Handle: onceHandle})
	require.NoError(t, err)
	require.NoError(t, s.RemoveVM("empty"))
	forget := func(left int) {
		t.Helper()
		require.NoError(t, s.forgetRequests())
		require.Equal(t, left, recorded(t, s))
	}
	forget(2)
	s.Answered(1)
	s.Answered(2)
	forget(1)
	s = takeOver(t, s)
	forget(1)
	s.Released(onceHandle)
	_, known := s.Done(2)
	require.False(t, known)
	forget(0)

	require.NoError(t, vmNamed(t, s, "web").Unlink("a", Request{ID: 3}))
	s = takeOver(t, s)
	forget(1)
	s.requests.since = time.Now().Add(-2 * forgetAfter)
	forget(0)

	_, err = s.CreateVM("db", 0o755, 0, 0, Request{ID: 4})
	require.NoError(t, err)
	s = kill(t, s, filepath.Join(t.TempDir(), "store"))
	_, known = s.Done(4)
	require.False(t, known)
	forget(0)
	require.NoError(t, s.Close())
}

// A record of more snapshots than fit leaves out their files.
func TestOnceManyDeleted(t *testing.T) {
	var infos []SnapshotInfo
	for range 3 {
		infos = append(infos, SnapshotInfo{Name: "one", Files: make([]FileInfo, 1000)})
	}
	require.Equal(t, infos[:1], doneDeleted(infos[:1]).Deleted)
	short := doneDeleted(infos).Deleted
	require.Len(t, short, len(infos))
	require.Equal(t, "one", short[0].Name)
	require.Empty(t, short[0].Files)
}
