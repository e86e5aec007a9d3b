package fs

// What control files say when they are opened for reading.

import (
	"os"
	"time"

	"github.com/snapfs/snapfs/layer"
)

// usagePatience is how long a list waits for what its snapshots use to be found out.
const usagePatience = 300 * time.Millisecond

// render returns what a fresh handle reads: of control files that take commands, how to write one.
func (s *server) render(n node) ([]byte, error) {
	id, which := n.control()
	if which.name() == "" {
		return nil, errStale
	}
	if which.isWriter() && which != controlPolicy {
		return []byte(which.usage()), nil
	}
	if id == 0 {
		return s.renderMount(which), nil
	}
	vm, err := s.vmOf(n)
	if err != nil {
		return nil, err
	}
	switch which {
	case controlPolicy:
		return renderPolicy(vm.Policy()), nil
	case controlTree:
		return []byte(drawTree(vm.Status(), infos(vm), time.Now())), nil
	case controlList:
		return marshal(vm.List(time.Now().Add(usagePatience))), nil
	case controlStatus:
		return marshal(s.vmStatus(vm)), nil
	}
	return []byte(s.log.Text(vm.Name())), nil
}

// vmStatus is how a VM stands, and how far a snapshot is that is being taken.
type vmStatus struct {
	layer.VMStatus
	Progress *Progress `json:"progress"`
}

// vmStatus describes a VM, with the reasons of those who take its snapshots.
func (s *server) vmStatus(vm *layer.VM) vmStatus {
	st := vmStatus{vm.Status(), s.options.Progress(vm)}
	st.Reasons = append(st.Reasons, s.options.Reasons(vm)...)
	st.Compliant = len(st.Reasons) == 0
	return st
}

func infos(vm *layer.VM) []layer.SnapshotInfo {
	list := []layer.SnapshotInfo{}
	for _, snapshot := range vm.Snapshots() {
		list = append(list, snapshot.Info())
	}
	return list
}

func (s *server) renderMount(which control) []byte {
	switch which {
	case controlList:
		return marshal(s.listAll())
	case controlStatus:
		return marshal(s.status())
	}
	return []byte(s.log.Text(""))
}

// vmSnapshot is a snapshot in the list of the whole mount.
type vmSnapshot struct {
	VM string `json:"vm"`
	layer.SnapshotInfo
}

func (s *server) listAll() []vmSnapshot {
	list := []vmSnapshot{}
	until := time.Now().Add(usagePatience)
	for _, vm := range s.store.VMs() {
		for _, info := range vm.List(until) {
			list = append(list, vmSnapshot{vm.Name(), info})
		}
	}
	return list
}

// mountStatus is how the whole mount stands. Sizes in bytes.
type mountStatus struct {
	Store         string           `json:"store"`
	Mountpoint    string           `json:"mountpoint"`
	WorkerPID     int              `json:"worker_pid"`
	SupervisorPID *int             `json:"supervisor_pid"`
	Restarts      int              `json:"restarts"`
	LastExit      *string          `json:"last_exit"`
	Refusal       *Refusal         `json:"refused_upgrades"`
	Version       string           `json:"version"`
	Format        layer.FormatInfo `json:"format"`
	Layers        int              `json:"layers"`
	RetiredLayers int              `json:"retired_layers"`
	LayerBytes    int64            `json:"layer_bytes"`
	ReclaimBytes  int64            `json:"reclaim_bytes"`
	UnsummedBytes int64            `json:"unsummed_bytes"`
	MemoryBytes   int64            `json:"memory_bytes"` // of machines, in snapshots
	Free          int64            `json:"free"`
	Reserve       int64            `json:"reserve"`
	GrowthPerHour int64            `json:"growth_per_hour"`
	FullAt        *time.Time       `json:"full_at"`
	Fastest       *string          `json:"fastest"`
	Capabilities  []string         `json:"capabilities"`
	Progress      *Progress        `json:"progress"` // of a scrub
}

// status describes the mount.
func (s *server) status() mountStatus {
	stats := s.store.Stats()
	var fastest *string
	if stats.Fastest != "" {
		fastest = &stats.Fastest
	}
	status := mountStatus{
		Store:         s.store.Dir(),
		Mountpoint:    s.options.Mountpoint,
		WorkerPID:     os.Getpid(),
		Version:       s.options.Version,
		Format:        s.store.Format(),
		Layers:        stats.Layers,
		RetiredLayers: stats.RetiredLayers,
		LayerBytes:    stats.LayerBytes,
		ReclaimBytes:  stats.ReclaimBytes,
		UnsummedBytes: stats.UnsummedBytes,
		MemoryBytes:   s.store.MemoryBytes(),
		Free:          stats.Free,
		Reserve:       stats.Reserve,
		GrowthPerHour: stats.GrowthPerHour,
		FullAt:        stats.FullAt,
		Fastest:       fastest,
		Capabilities:  []string{"snapshot", "browse", "revert", "delete", "rename", "preview", "clone", "discard", "policy", "quiesce", "memory", "schedule", "growth"},
	}
	if percent, scrubs := s.store.ScrubProgress(); scrubs {
		status.Progress = &Progress{What: "scrub", Percent: percent}
	}
	watched := s.options.Supervision()
	status.Restarts = watched.Restarts
	if watched.PID != 0 {
		status.SupervisorPID = &watched.PID
	}
	if watched.PID != 0 && s.resends {
		status.Capabilities = append(status.Capabilities, "take-over")
	}
	status.Refusal = watched.Refusal
	if watched.LastExit != "" {
		status.LastExit = &watched.LastExit
	}
	return status
}
