package quiesce

// What a monitor tells of its machine: the disks, and a description to keep beside a snapshot.

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Disk is a block device that a machine has, with a medium in it.
type Disk struct {
	Device   string `json:"device"`    // its name, or its path among the machine's devices
	File     string `json:"file"`      // a path, or what QEMU calls the image
	Driver   string `json:"driver"`    // the image's format
	ReadOnly bool   `json:"read_only"` // also true for CD-ROMs
}

// Disks are those of the machine.
func (m Machine) Disks() ([]Disk, error) {
	var answer []struct {
		Device   string `json:"device"`
		QDev     string `json:"qdev"`
		Inserted *struct {
			File     string `json:"file"`
			Driver   string `json:"drv"`
			ReadOnly bool   `json:"ro"`
		} `json:"inserted"`
	}
	if err := json.Unmarshal(m.Block, &answer); err != nil {
		return nil, err
	}
	disks := []Disk{}
	for _, b := range answer {
		if b.Inserted == nil {
			continue
		}
		d := Disk{Device: b.Device, File: imageFile(b.Inserted.File), Driver: b.Inserted.Driver, ReadOnly: b.Inserted.ReadOnly}
		if d.Device == "" {
			d.Device = b.QDev
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// imageFile finds the path in the ways in which QEMU names an image: the path, "file:" and the path, or "json:" and what
// -blockdev was given, in which the file stands at some depth.
func imageFile(name string) string {
	if path, ok := strings.CutPrefix(name, "file:"); ok {
		return path
	}
	text, ok := strings.CutPrefix(name, "json:")
	if !ok {
		return name
	}
	var node struct {
		Filename string          `json:"filename"`
		File     json.RawMessage `json:"file"`
	}
	for json.Unmarshal([]byte(text), &node) == nil {
		switch {
		case node.Filename != "":
			return imageFile(node.Filename)
		case node.File == nil:
			return name
		}
		text, node.File = string(node.File), nil
	}
	return name
}

// Machine describes a machine as its monitor does, each part as QEMU wrote it. A part that this QEMU does not tell is
// null.
type Machine struct {
	Version json.RawMessage `json:"version"`
	Status  json.RawMessage `json:"status"`
	Block   json.RawMessage `json:"block"`
	CPUs    json.RawMessage `json:"cpus"`
	Memory  json.RawMessage `json:"memory"`
	Dir     string          `json:"-"` // QEMU's working directory, from which relative paths are meant; empty: not known
}

// Machine asks for the description.
func (q *QMP) Machine(ctx context.Context) (Machine, error) {
	var m Machine
	for _, part := range []struct {
		command string
		into    *json.RawMessage
	}{
		{"query-version", &m.Version},
		{"query-status", &m.Status},
		{"query-block", &m.Block},
		{"query-cpus-fast", &m.CPUs},
		{"query-memory-size-summary", &m.Memory},
	} {
		if err := q.Execute(ctx, part.command, nil, part.into); err != nil && !answered(err) {
			return Machine{}, err
		}
	}
	m.Dir = q.directory()
	return m, nil
}

// RunState is whether the machine ran when it was described.
func (m Machine) RunState() (s RunState, err error) {
	err = json.Unmarshal(m.Status, &s)
	return s, err
}

// RAM is how much memory the machine has, in bytes; 0 if that is not known.
func (m Machine) RAM() int64 {
	var size struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}
	_ = json.Unmarshal(m.Memory, &size) // then it is not known
	return size.Base + size.Plugged
}

// Version is QEMU's, as "7.2.22".
func (q *QMP) Version(ctx context.Context) (string, error) {
	var v struct {
		QEMU struct{ Major, Minor, Micro int }
	}
	err := q.Execute(ctx, "query-version", nil, &v)
	return fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro), err
}
