package integration

// The snapshots of a VM of the soak test: a new one each second, whatever else is done
// to them, and what they hold.

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/snapfs/snapfs/integration/daemon"
)

// soakSnapshots is how many snapshots a VM has about.
const soakSnapshots = 8

// runSnapshots makes a snapshot every second, and something of one that is there.
func (v *soakVM) runSnapshots(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := v.everySecond(n); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
}

func (v *soakVM) everySecond(n int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	made, err := v.snapshot(nil)
	if err != nil {
		return err
	}
	switch n % 8 {
	case 0: // the disks go on changing, it must not
		v.known[made], err = v.read(snapshotPath(v.dir, made))
	case 2:
		err = v.rename()
	case 4:
		err = v.clone()
	case 6:
		err = v.recheck()
	}
	if err != nil {
		return err
	}
	return v.thin()
}

// snapshot makes one, of which it may be known what is in it, and returns its name.
func (v *soakVM) snapshot(holds content) (name string, err error) {
	v.count++
	name = fmt.Sprint("s", v.count)
	v.snapshots.Add(1)
	if holds != nil {
		v.known[name] = holds
	}
	return name, v.order("create", name)
}

// names are those of all snapshots, those that reverts left behind too.
func (v *soakVM) names() (names []string, err error) {
	text, err := os.ReadFile(snapshotPath(v.dir, "list"))
	if err != nil {
		return nil, err
	}
	var all []snapshot
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("list: %w: %s", err, text)
	}
	there := map[string]bool{}
	for _, s := range all {
		if s.State != "ready" {
			return nil, fmt.Errorf("snapshot %s is %s", s.Name, s.State)
		}
		names, there[s.Name] = append(names, s.Name), true
	}
	for name := range v.known {
		if !there[name] {
			return nil, fmt.Errorf("snapshot %s is gone", name)
		}
	}
	return names, nil
}

// pick chooses a snapshot; there is one.
func (v *soakVM) pick() (string, error) {
	names, err := v.names()
	if err != nil {
		return "", err
	}
	return names[rand.IntN(len(names))], nil
}

// thin deletes snapshots, one or several at a time, when there are too many.
func (v *soakVM) thin() error {
	names, err := v.names()
	if err != nil || len(names) <= soakSnapshots {
		return err
	}
	line, n := "", 1+rand.IntN(4)
	for _, i := range rand.Perm(len(names))[:n] {
		line += " " + names[i]
		delete(v.known, names[i])
	}
	v.deleted.Add(int64(n))
	return v.order("delete", line[1:])
}

func (v *soakVM) rename() error {
	from, err := v.pick()
	if err != nil {
		return err
	}
	v.count++
	to := fmt.Sprint("s", v.count)
	if holds, ok := v.known[from]; ok {
		delete(v.known, from)
		v.known[to] = holds
	}
	v.renamed.Add(1)
	return v.order("rename", from+" "+to)
}

// clone makes a VM of a snapshot, which holds the same. What is written to it is not
// in the snapshot.
func (v *soakVM) clone() error {
	from, err := v.pick()
	if err != nil {
		return err
	}
	holds, err := v.contentOf(from)
	if err != nil {
		return err
	}
	clone := v.name + "-clone"
	v.clones.Add(1)
	if err := v.order("clone", from+" to="+clone); err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(v.dir), clone)
	if err := v.compare("a clone of "+from, dir, holds); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, soakDisk(rand.IntN(soakDisks))), make([]byte, 1<<20), 0o644); err != nil {
		return err
	}
	if err := v.compare(from+", which was cloned", snapshotPath(v.dir, from), holds); err != nil {
		return err
	}
	out, err := exec.Command(daemon.Binary, "destroy", dir, "--yes").CombinedOutput()
	if err != nil {
		return fmt.Errorf("destroy %s: %w: %s", clone, err, out)
	}
	return nil
}

// recheck compares a snapshot of which it is known what it holds.
func (v *soakVM) recheck() error {
	for name, holds := range v.known {
		return v.compare(name, snapshotPath(v.dir, name), holds)
	}
	return nil
}

// verifyAll compares all of those.
func (v *soakVM) verifyAll() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.names(); err != nil {
		return err
	}
	for name, holds := range v.known {
		if err := v.compare(name, snapshotPath(v.dir, name), holds); err != nil {
			return err
		}
	}
	return nil
}

// contentOf is what a snapshot held when it was made, if that is known, or holds.
func (v *soakVM) contentOf(name string) (content, error) {
	if holds, ok := v.known[name]; ok {
		return holds, nil
	}
	return v.read(snapshotPath(v.dir, name))
}

// order has the VM do something.
func (v *soakVM) order(control, line string) error { return tell(v.dir, control, line) }
