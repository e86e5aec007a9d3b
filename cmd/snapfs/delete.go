package main

// snapfs delete: all of the snapshots named, or none.

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// deletion says what to delete and how.
type deletion struct {
	olderThan time.Duration // 0: whatever their age
	dryRun    bool
	asJSON    bool
}

func (a *app) deleteCmd() *cobra.Command {
	var d deletion
	cmd := &cobra.Command{
		Use:   "delete VM NAME…|A..B",
		Short: "Delete snapshots, all or none",
		Long: `Delete snapshots: all that are named or, if one can't be, none. A..B stands for A, B and those in between, from B back
to A as each grew from the one before. With --older-than only those of them that are, or of all if none is named.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && d.olderThan == 0 {
				return usagef("name the snapshots to delete, or say --older-than")
			}
			return a.delete(args[0], args[1:], d)
		},
	}
	cmd.Flags().Func("older-than", "only snapshots taken longer ago than `TIME`, such as 72h", func(text string) (err error) {
		d.olderThan, err = time.ParseDuration(text)
		if err == nil && d.olderThan <= 0 {
			err = fmt.Errorf("%s is no age", text)
		}
		return err
	})
	cmd.Flags().BoolVar(&d.dryRun, "dry-run", false, "only show what would be deleted")
	addJSONFlag(cmd, &d.asJSON)
	return cmd
}

func (a *app) delete(vm string, names []string, d deletion) error {
	if d.olderThan > 0 || d.dryRun {
		p, err := openVM(vm)
		if err != nil {
			return err
		}
		list, err := p.snapshots()
		if err != nil {
			return err
		}
		picked, err := pick(list, names, d.olderThan, time.Now())
		if err != nil {
			return fmt.Errorf("%s: %w", vm, err)
		}
		if d.dryRun || len(picked) == 0 {
			return a.showPicked(picked, d.asJSON)
		}
		names = snapshotNames(picked)
	}
	_, err := a.command(vm, "delete", "deleting", command{Names: names}, d.asJSON)
	return err
}

// pick finds the snapshots that names and ranges stand for, or all without a name, that are older than so much at now.
func pick(list []listed, names []string, olderThan time.Duration, now time.Time) ([]layer.SnapshotInfo, error) {
	var infos []layer.SnapshotInfo
	byName := make(map[string]layer.SnapshotInfo)
	for _, s := range list {
		infos = append(infos, s.SnapshotInfo)
		byName[s.Name] = s.SnapshotInfo
	}
	if len(names) == 0 {
		names = snapshotNames(infos)
	}
	names, err := fs.ExpandRanges(infos, names)
	if err != nil {
		return nil, err
	}
	picked := []layer.SnapshotInfo{}
	for _, name := range names {
		info, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("there is no snapshot %q", name)
		}
		if now.Sub(info.Created) > olderThan {
			picked = append(picked, info)
		}
	}
	return picked, nil
}

func snapshotNames(infos []layer.SnapshotInfo) []string {
	var names []string
	for _, info := range infos {
		names = append(names, info.Name)
	}
	return names
}

// showPicked shows what would be deleted; in JSON as the answer to deleting it.
func (a *app) showPicked(picked []layer.SnapshotInfo, asJSON bool) error {
	if asJSON {
		return writeJSON(a.stdout, map[string]any{"snapshots": picked})
	}
	for _, info := range picked {
		what := info.Created.Local().Format(timeLayout)
		if info.Unique != nil {
			what += ", " + showSize(*info.Unique) + " unique"
		}
		fmt.Fprintf(a.stdout, "would delete %s (%s)\n", info.Name, what)
	}
	return nil
}
