package main

// Deleting a snapshot amid others, with data of its own that newer ones have overwritten. Must return at once, and copy nothing.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// deletion is what it took to delete a snapshot.
type deletion struct {
	returned, freed time.Duration
	read, written   int64 // bytes
}

// deleter fills a disk anew, with a snapshot before and after, and deletes the latter.
type deleter struct {
	peer   peer
	delete func() deletion
}

// deletes measures all peers in turn.
func (b *bench) deletes() {
	var all []deleter
	for _, p := range b.programs {
		all = append(all, b.snapfsDeleter(p))
	}
	all = append(all, b.jobDeleter(), b.commitDeleter())
	b.plan(b.troubles * len(all))
	for range b.troubles {
		for _, x := range all {
			b.step(string(x.peer))
			b.writeBack()
			out := x.delete()
			note := func(m metric, value float64) {
				b.results.add(row{b.group, bytesName(b.own) + " of its own", 2, m}, x.peer, value)
			}
			note(took, milliseconds(out.returned))
			note(freed, milliseconds(out.freed))
			note(bytesRead, float64(out.read)/float64(b.own))
			note(bytesWrote, float64(out.written)/float64(b.own))
		}
	}
}

// fill writes as much to a disk as the snapshot is to have of its own.
func (b *bench) fill(path string) {
	d := openDisk(b.scope, path, unix.O_DIRECT)
	d.fill(0, b.own)
	require.NoError(b, d.Sync())
	d.release()
}

func (b *bench) snapfsDeleter(p program) deleter {
	m, i := newMount(b.scope, p, filepath.Join(b.temp(), "store")), 0
	m.vm("vm")
	path := m.path("vm", "disk")
	newDisk(b.scope, path, b.own).release()
	return deleter{p.peer, func() deletion {
		i++
		base, middle := fmt.Sprint("base", i), fmt.Sprint("middle", i)
		b.fill(path)
		m.snapshot("vm", base)
		b.fill(path)
		m.snapshot("vm", middle)
		b.fill(path)
		m.awaitSummed(b.own)
		out := m.delete("vm", middle)
		m.delete("vm", base)
		return out
	}}
}

// delete deletes a snapshot and waits until all its space is given back.
func (m *mount) delete(vm, name string) deletion {
	return measureDeletion(m.s, m.Worker(), func() { m.command(vm, "delete", name) }, m.awaitReclaimed)
}

// measureDeletion measures what a process does for remove, and until free returns, when the space is given back.
func measureDeletion(s *scope, pid int, remove, free func()) (out deletion) {
	read, written := counter(s, pid, "io", "rchar"), counter(s, pid, "io", "write_bytes")
	began := time.Now()
	remove()
	out.returned = time.Since(began)
	free()
	out.freed = time.Since(began)
	out.read = counter(s, pid, "io", "rchar") - read
	out.written = counter(s, pid, "io", "write_bytes") - written
	return out
}

// jobDeleter merges an image into the one below it with block-commit, while the chain is served.
func (b *bench) jobDeleter() deleter {
	return deleter{qsdQcow2, func() deletion {
		q := newStorageDaemon(b.scope, "qcow2", b.own, qemuSettings{AIO: "threads"})
		defer q.discard()
		b.fillChain(q)
		return measureDeletion(b.scope, q.pid(), func() {
			q.monitor.command("block-commit", map[string]any{"job-id": "commit", "device": q.node(2), "top-node": q.node(1), "base-node": q.node(0)})
		}, func() {
			q.monitor.awaitEvent("BLOCK_JOB_COMPLETED")
			require.NoError(b, os.Remove(q.image(1)))
		})
	}}
}

// commitDeleter does the same with qemu-img, while nobody uses the chain.
func (b *bench) commitDeleter() deleter {
	return deleter{offline, func() (out deletion) {
		q := newStorageDaemon(b.scope, "qcow2", b.own, qemuSettings{AIO: "threads"})
		defer q.discard()
		b.fillChain(q)
		q.stop()
		began := time.Now()
		io := run(b.scope, "sh", "-c", `"$@" && cat /proc/$$/io`, "sh", "qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b", q.image(0), q.image(1))
		run(b.scope, "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", q.image(0), q.image(2))
		out.returned = time.Since(began)
		require.NoError(b, os.Remove(q.image(1)))
		out.freed = time.Since(began)
		for line := range strings.Lines(io) {
			_, _ = fmt.Sscanf(line, "rchar: %d", &out.read)
			_, _ = fmt.Sscanf(line, "write_bytes: %d", &out.written)
		}
		return out
	}}
}

// fillChain makes a chain of three images, each of them full.
func (b *bench) fillChain(q *storageDaemon) {
	b.fill(q.path)
	for range 2 {
		q.snapshot()
		b.fill(q.path)
	}
}
