package main

// What an index that went back does not know any more: VMs and snapshots that were made since, by the events.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
)

// findGone finds what was made after a moment and is not there any more, and has `log` tell of it, if it is to. Otherwise nothing is
// written.
func findGone(dir string, since time.Time, there []string, log bool) (gone []layer.Finding, err error) {
	path := filepath.Join(dir, "events")
	if !log {
		past, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, cannotTell(err)
		}
		return goneSince(string(past), since, there, func(fs.Made, string) {}), nil
	}
	file, past, err := openEvents(path, eventsSize)
	if err != nil {
		return nil, cannotTell(err)
	}
	defer file.Close()
	events := fs.NewEventLog(file)
	defer events.Drain(time.Minute)
	return goneSince(past, since, there, events.Lost), nil
}

func cannotTell(err error) error {
	return fmt.Errorf("the index went back, and what was made since can't be told: %w", err)
}

// goneSince goes by past events, and calls tell with each that something is gone of.
func goneSince(past string, since time.Time, there []string, tell func(fs.Made, string)) (gone []layer.Finding) {
	slices.Sort(there)
	for _, m := range fs.MadeBy(past) {
		if _, ok := slices.BinarySearch(there, m.Name); ok || m.At.Before(since.Truncate(time.Second)) {
			continue
		}
		text := fmt.Sprintf("is gone: it was made at %s, after what the index went back to", m.At.UTC().Format(time.RFC3339))
		gone = append(gone, layer.Finding{Object: m.Name, Text: text})
		tell(m, text)
	}
	return gone
}
