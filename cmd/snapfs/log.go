package main

// snapfs log: the last events of a VM or of a whole mount.

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) logCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "log VM|MOUNT",
		Short: "Show the last events of a VM or of a whole mount",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := openPlace(args[0])
			if err != nil {
				return err
			}
			if !asJSON {
				return a.show(p, "log")
			}
			text, err := p.read("log")
			if err != nil {
				return err
			}
			return writeJSON(a.stdout, parseLog(string(text)))
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// parseLog reads lines "TIME EVENT KEY=VALUE …", a value being quoted where it must be.
func parseLog(text string) []map[string]string {
	events := []map[string]string{}
	for line := range strings.Lines(text) {
		when, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		event, rest, _ := strings.Cut(rest, " ")
		if when == "" {
			continue
		}
		e := map[string]string{"time": when, "event": event}
		for rest != "" {
			var key, value string
			key, value, rest = nextPair(rest)
			e[key] = value
		}
		events = append(events, e)
	}
	return events
}

// nextPair takes the first KEY=VALUE off a line.
func nextPair(line string) (key, value, rest string) {
	key, line, _ = strings.Cut(line, "=")
	if quoted, err := strconv.QuotedPrefix(line); err == nil {
		value, _ = strconv.Unquote(quoted)
		return key, value, strings.TrimPrefix(line[len(quoted):], " ")
	}
	value, rest, _ = strings.Cut(line, " ")
	return key, value, rest
}
