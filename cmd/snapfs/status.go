package main

// snapfs status: how a VM or a whole mount stands.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// sizes are the keys of a status that count bytes.
var sizes = map[string]bool{
	"size": true, "virtual": true, "allocated": true, "growth_per_hour": true, "layer_bytes": true,
	"reclaim_bytes": true, "unsummed_bytes": true, "memory_bytes": true, "free": true, "reserve": true,
}

func (a *app) statusCmd() *cobra.Command {
	var asJSON bool
	var table tableFlags
	cmd := &cobra.Command{
		Use:   "status VM|MOUNT",
		Short: "Show how a VM or a whole mount stands",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := openPlace(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.show(p, "status")
			}
			text, err := p.read("status")
			if err != nil {
				return err
			}
			return showStatus(a.stdout, text, table)
		},
	}
	table.add(cmd, columnNames(fieldColumns("property")))
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// field is a key of a JSON object and its value.
type field struct {
	key   string
	value json.RawMessage
}

// showStatus writes a JSON object for people: a line for each key, in the object's order.
func showStatus(w io.Writer, text []byte, table tableFlags) error {
	fields, err := objectFields(text)
	if err != nil {
		return fmt.Errorf("the status makes no sense: %w", err)
	}
	return showTable(w, fieldColumns("property"), fields, table)
}

// objectFields lists the fields of a JSON object in the order in which they stand there.
func objectFields(text []byte) ([]field, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var fields []field
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		f := field{key: fmt.Sprint(key)}
		if err := d.Decode(&f.value); err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// showValue writes a value without JSON's signs; a list in one line, null as nothing.
func showValue(key string, value json.RawMessage) string {
	var list []json.RawMessage
	var text string
	var number int64
	var at time.Time
	switch {
	case bytes.Equal(value, []byte("null")):
		return ""
	case json.Unmarshal(value, &list) == nil:
		var parts []string
		for _, item := range list {
			parts = append(parts, showValue(key, item))
		}
		return strings.Join(parts, ", ")
	case key == "full_at" && json.Unmarshal(value, &at) == nil:
		return fmt.Sprintf("%s (%s)", humanize.Time(at), at.Local().Format(timeLayout))
	case json.Unmarshal(value, &text) == nil:
		return text
	case sizes[key] && json.Unmarshal(value, &number) == nil:
		return showSize(number)
	case value[0] == '{':
		return showObject(value)
	}
	return string(value)
}

// showObject writes an object within a line: its first field, and the others behind it in brackets.
func showObject(value json.RawMessage) string {
	fields, err := objectFields(value)
	if err != nil || len(fields) == 0 {
		return ""
	}
	var rest []string
	for _, f := range fields[1:] {
		rest = append(rest, f.key+" "+showValue(f.key, f.value))
	}
	return fmt.Sprintf("%s (%s)", showValue(fields[0].key, fields[0].value), strings.Join(rest, ", "))
}
