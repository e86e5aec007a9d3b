package main

// snapfs policy: shows a VM's policy, and changes keys of it.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapfs/snapfs/layer"
)

func (a *app) policyCmd() *cobra.Command {
	var asJSON bool
	var table tableFlags
	cmd := &cobra.Command{
		Use:   "policy VM [set KEY=VALUE…]",
		Short: "Show a VM's policy, or change keys of it",
		Long: `Show a VM's policy, or with set change keys of it, such as

  snapfs policy web set quiesce.mode=agent quiesce.agent=/run/web.agent limit.age=720h 'schedule=0 3 * * *'

A list is given as a,b or as JSON, an empty one as nothing. Either all changes are made or none.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fmt.Errorf("policy needs the directory of a VM")
			case len(args) > 1 && (args[1] != "set" || len(args) == 2):
				return fmt.Errorf("after the VM comes nothing, or set and KEY=VALUE")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := openVM(args[0])
			if err != nil {
				return err
			}
			if len(args) > 1 {
				return a.setPolicy(p, args[2:], asJSON)
			}
			return a.showPolicy(p, table, asJSON)
		},
	}
	table.add(cmd, columnNames(fieldColumns("key")))
	addJSONFlag(cmd, &asJSON)
	return cmd
}

// showPolicy writes a line for each key; as JSON, one line for all.
func (a *app) showPolicy(p place, table tableFlags, asJSON bool) error {
	text, err := p.read("policy")
	if err != nil {
		return err
	}
	if asJSON {
		var line bytes.Buffer
		if err := json.Compact(&line, text); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", line.Bytes())
		return err
	}
	fields, err := leaves("", text)
	if err != nil {
		return fmt.Errorf("the policy makes no sense: %w", err)
	}
	return showTable(a.stdout, fieldColumns("key"), fields, table)
}

// leaves lists the values of a JSON object and of the objects in it, as quiesce.mode.
func leaves(prefix string, object []byte) ([]field, error) {
	fields, err := objectFields(object)
	if err != nil {
		return nil, err
	}
	var all []field
	for _, f := range fields {
		f.key = prefix + f.key
		if !bytes.HasPrefix(f.value, []byte("{")) {
			all = append(all, f)
			continue
		}
		below, err := leaves(f.key+".", f.value)
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}

func (a *app) setPolicy(p place, changes []string, asJSON bool) error {
	text, err := p.read("policy")
	if err != nil {
		return err
	}
	document, err := changePolicy(text, changes)
	if err != nil {
		return err
	}
	reply, err := p.tell("policy", document)
	if err == nil && asJSON {
		_, err = a.stdout.Write(reply.text)
	}
	return err
}

// changePolicy makes changes, KEY=VALUE each, to a policy's document. Whether the values make sense is the daemon's to
// say.
func changePolicy(document []byte, changes []string) ([]byte, error) {
	var policy map[string]any
	if err := json.Unmarshal(document, &policy); err != nil {
		return nil, err
	}
	for _, change := range changes {
		key, value, found := strings.Cut(change, "=")
		if !found {
			return nil, usagef("%q is not KEY=VALUE", change)
		}
		object, name := policy, key
		for first, rest, deeper := strings.Cut(name, "."); deeper; first, rest, deeper = strings.Cut(name, ".") {
			object, _ = object[first].(map[string]any)
			name = rest
		}
		old, known := object[name]
		if !known {
			return nil, usagef("a policy has no key %q", key)
		}
		changed, err := likeOld(old, value)
		if err != nil {
			return nil, usagef("%s: %v", key, err)
		}
		object[name] = changed
	}
	return json.Marshal(policy)
}

// likeOld reads a value of the same kind as the one that it replaces.
func likeOld(old any, text string) (any, error) {
	asJSON := strings.HasPrefix(text, `"`) || strings.HasPrefix(text, "[")
	switch old.(type) {
	case string:
		if !strings.HasPrefix(text, `"`) {
			return text, nil
		}
	case []any:
		switch {
		case text == "":
			return []string{}, nil
		case !asJSON:
			return strings.Split(text, ","), nil
		}
	}
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return nil, fmt.Errorf("%q is no value of it", text)
	}
	return value, nil
}

// policy reads a VM's policy.
func (p place) policy() (layer.Policy, error) {
	text, err := p.read("policy")
	if err != nil {
		return layer.Policy{}, err
	}
	return layer.ParsePolicy(text)
}
