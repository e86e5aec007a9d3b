package main

// What an index that went back does not know any more: VMs and snapshots that were made since, by the events.

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// findGone finds what was made after a moment and is not there any more, and has `log` tell of it, if it is to.
func findGone(dir string, since time.Time, there []string, log bool) (gone []layer.Finding, err error) {
	file, past, err := openEvents(filepath.Join(dir, "events"), eventsSize)
	if err != nil {
		return nil, fmt.Errorf("the index went back, and what was made since can't be told: %w", err)
	}
	defer file.Close()
	events := fs.NewEventLog(file)
	defer events.Drain(time.Minute)
	slices.Sort(there)
	for _, m := range fs.MadeBy(past) {
		if _, ok := slices.BinarySearch(there, m.Name); ok || m.At.Before(since.Truncate(time.Second)) {
			continue
		}
		text := fmt.Sprintf("is gone: it was made at %s, after what the index went back to", m.At.UTC().Format(time.RFC3339))
		gone = append(gone, layer.Finding{Object: m.Name, Text: text})
		if log {
			events.Lost(m, text)
		}
	}
	return gone, nil
}
