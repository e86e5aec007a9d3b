package main

// snapfs restore-index: makes the index of a store anew of a backup.

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

func (a *app) restoreIndexCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "restore-index STORE",
		Short: "Make the index of a store that is not mounted anew of its newest backup",
		Long: `Make the index of a store that is not mounted anew of its newest sound backup in STORE/backup, which a mount makes every
hour, or of what is sound of the old index, if that is newer. The old index, and all data that the backup does not know, is kept in STORE/quarantine.

The backup is older than the data. A snapshot that it knows shows what it always did; where its data was given back since,
to read it is an error, never zeros. What a VM showed last comes back as far as its data is there, but of no one moment:
check its file system, or revert it. What was made since the backup, VMs, files and snapshots, is gone from sight.
So an index that is sound is left as it is, unless --force says otherwise.

Exit code 0: the index is restored, and what it knows is there. 1: it is restored, and data is lost, which is named, as
` + "`snapfs check`" + ` does from then on; or it could not be restored.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.restoreIndex(args[0], force) },
	}
	cmd.Flags().BoolVar(&force, "force", false, "go back to the backup also where the index is sound")
	return cmd
}

func (a *app) restoreIndex(dir string, force bool) error {
	if err := refuseMounted(dir, "restore-index"); err != nil {
		return err
	}
	done := a.working("restoring")
	report, err := layer.RestoreIndex(dir, force)
	done()
	if report.Damage != "" {
		fmt.Fprintf(a.stdout, "nothing of the old index can be used: %s\n", oneLine(report.Damage))
	}
	for _, f := range report.Skipped {
		fmt.Fprintf(a.stdout, "skipped %s: %s\n", f.Object, oneLine(f.Text))
	}
	if err != nil {
		return err
	}
	gone, err := findGone(dir, report.Taken, report.Names, true)
	if err != nil {
		return err
	}
	report.Lost = append(report.Lost, gone...)
	a.showRestored(report)
	if err := keepRestored(dir, report); err != nil {
		return err
	}
	if err := layer.Told(dir); err != nil {
		return err
	}
	if n := len(report.Lost); n > 0 {
		return fmt.Errorf("%s: the index is restored and can be mounted, with %s that no restore brings back", dir, count(n, "finding"))
	}
	return nil
}

// maxShown is how many lines of a kind a person is shown.
const maxShown = 100

func (a *app) showRestored(r layer.RestoreReport) {
	fmt.Fprintf(a.stdout, "restored %s; the old index is in %s\n", r.From, r.Aside)
	if r.Unknown > 0 {
		fmt.Fprintf(a.stdout, "%s that it does not know, %s, are in %s: of VMs, files and snapshots made since, and of what was written after those\n",
			count(r.Unknown, "file"), showSize(r.Bytes), r.Aside)
	}
	for _, kind := range [][]layer.Finding{r.Done, r.States, r.Lost} {
		showFindings(a.stdout, "", kind[:min(len(kind), maxShown)])
		if more := len(kind) - maxShown; more > 0 {
			fmt.Fprintf(a.stdout, "and %d lines more like these\n", more)
		}
	}
	fmt.Fprintf(a.stdout, "%s suspect, %s with something lost; `snapfs check` names again what of the latter is there\n",
		count(len(r.States), "current file"), count(len(r.Lost), "file or snapshot's file"))
}

// keepRestored has `log` tell of it.
func keepRestored(dir string, r layer.RestoreReport) error {
	file, _, err := openEvents(filepath.Join(dir, "events"), eventsSize)
	if err != nil {
		return fmt.Errorf("the index is restored, but the events that say so can't be written: %w", err)
	}
	defer file.Close()
	events := fs.NewEventLog(file)
	defer events.Drain(time.Minute)
	events.Add("", "index-restored", "backup", r.Backup, "made", r.Taken.Format(time.RFC3339), "aside", r.Aside,
		"suspect", len(r.States), "lost", len(r.Lost))
	for _, kind := range [][]layer.Finding{r.States, r.Lost} {
		for _, f := range kind[:min(len(kind), maxShown)] {
			events.Add("", "index-restored", "object", f.Object, "what", f.Text)
		}
	}
	return nil
}
