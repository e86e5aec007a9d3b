package integration

// A VM of the soak test: its disks, and who writes to them.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
)

const (
	soakDisks    = 4
	soakDiskSize = 16 << 20 // bytes: a few regions of the index
)

// soakLoads are what fio does to each of the disks: blocks that a guest's file system
// writes, larger ones that are read back at once, the largest, and any.
var soakLoads = [soakDisks][]string{
	{"--bs=4k", "--iodepth=16", "--verify=crc32c", "--fdatasync=64"},
	{"--bs=64k", "--iodepth=8", "--verify=xxhash", "--verify_backlog=32"},
	{"--bs=1M", "--iodepth=4", "--verify=crc32c"},
	{"--bssplit=512/20:4k/30:12k/30:128k/20", "--iodepth=8", "--verify=pattern", "--fsync=32"},
}

type soakVM struct {
	*soak
	name string
	dir  string

	// mu is held by who makes, takes away or reads snapshots, or changes disks while
	// fio does not write.
	mu    sync.Mutex
	count int                // of names given
	known map[string]content // what was in some snapshots when they were made
}

func newSoakVM(s *soak, i int) *soakVM {
	v := &soakVM{soak: s, name: fmt.Sprint("vm", i), known: map[string]content{}}
	v.dir = s.m.vm(v.name)
	for d := range soakDisks {
		s.m.disk(v.name, soakDisk(d), soakDiskSize)
	}
	return v
}

func soakDisk(d int) string { return fmt.Sprintf("disk%d.img", d) }

// runDisks has fio write all of each disk and read it back, again and again. In
// between, when no disk is open, snapshots are gone back to.
func (v *soakVM) runDisks(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := v.fio(); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		if err := v.goBack(); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}

// fio writes all disks, and reads them back.
func (v *soakVM) fio() error {
	loads := map[string][]string{}
	for d, load := range soakLoads {
		loads[filepath.Join(v.dir, soakDisk(d))] = load
	}
	r, err := fioVerify(loads, soakDiskSize)
	if err != nil {
		return err
	}
	v.fioRuns.Add(1)
	v.written.Add(r.written)
	v.verified.Add(r.verified)
	v.requests.add(r.longest)
	return nil
}

// goBack does one of what is done while no disk is in use, and compares what the disks
// hold before and after it.
func (v *soakVM) goBack() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	before, err := v.read(v.dir)
	if err != nil {
		return err
	}
	kept, err := v.snapshot(before)
	if err != nil {
		return err
	}
	target, err := v.pick()
	if err != nil {
		return err
	}
	want, err := v.contentOf(target)
	if err != nil {
		return err
	}
	switch rand.IntN(5) {
	case 0:
		v.reverts.Add(1)
		if err := v.order("revert", target); err != nil {
			return err
		}
	case 1:
		v.reverts.Add(1)
		if err := v.order("revert", target+" discard=true"); err != nil {
			return err
		}
	case 2:
		return v.preview(target, want, before)
	case 3:
		v.previews.Add(1)
		if err := v.order("preview", target); err != nil {
			return err
		}
		if err := v.order("commit", "\n"); err != nil {
			return err
		}
	default:
		return v.compare("the snapshot of what it holds", snapshotPath(v.dir, kept), before)
	}
	return v.compare("its files after going back to "+target, v.dir, want)
}

// preview looks at a snapshot, and goes back to what was before.
func (v *soakVM) preview(target string, want, before content) error {
	v.previews.Add(1)
	if err := v.order("preview", target); err != nil {
		return err
	}
	if err := v.compare("its files, with "+target+" previewed", v.dir, want); err != nil {
		return err
	}
	if err := v.order("undo", "\n"); err != nil {
		return err
	}
	return v.compare("its files after a preview of "+target, v.dir, before)
}
