package main

// snapfs scrub: compares all data with its checksums, while the store is mounted.

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/layer"
)

func (a *app) scrubCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "scrub MOUNT",
		Short: "Compare the data and the memory of all snapshots with their checksums",
		Long: `Compare the data that snapshots have sealed with its checksums, at no more than half the disk's speed, while guests go on.
Data that was written since a VM's last snapshot has none. The memory of machines that snapshots have is compared, too: no
revert offers to start a machine from a memory that was found damaged. Nothing else is changed, but for checksums that are lost:
they are made anew. Where data and checksum do not match, nobody knows which of the two is damaged. Who finds the data right, as by a
checksum of their own, removes the layer's file in STORE/sums while the store is not mounted, and runs
` + "`snapfs check STORE --repair`" + `.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.scrub(args[0], asJSON) },
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) scrub(mountpoint string, asJSON bool) error {
	p, err := openPlace(mountpoint)
	if err != nil {
		return err
	}
	if p.isVM() {
		return fmt.Errorf("%s is a VM: name the mount, all of it is compared", mountpoint)
	}
	done := a.watch(p, "comparing")
	reply, err := p.tell("scrub", []byte("\n"))
	done()
	if err != nil {
		return err
	}
	var said struct {
		Scrub layer.ScrubReport `json:"scrub"`
	}
	if err := json.Unmarshal(reply.text, &said); err != nil {
		return fmt.Errorf("the answer makes no sense: %w", err)
	}
	report := said.Scrub
	if asJSON {
		if err := writeJSON(a.stdout, report); err != nil {
			return err
		}
	} else {
		for _, f := range report.Findings {
			fmt.Fprintf(a.stdout, "%s: %s\n", f.Object, oneLine(f.Text))
		}
		what := count(report.Layers, "layer")
		if report.Images > 0 {
			what += ", " + count(report.Images, "memory image")
		}
		fmt.Fprintf(a.stdout, "%s, %s compared; %s without checksums yet\n", what, showSize(report.Bytes), showSize(report.Unsummed))
	}
	if n := len(report.Findings); n > 0 {
		return fmt.Errorf("%s: %s", mountpoint, count(n, "finding"))
	}
	return nil
}
