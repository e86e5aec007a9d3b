package fs

// Commands as one JSON object.

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// parseJSON parses {"name": "…", …}. Keys are taken one by one rather than into a struct, so that a refusal can
// name the key, and a key given twice is noticed.
func (p *parser) parseJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil { // the {
		return badJSON(err)
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return badJSON(err)
		}
		key := token.(string) // in an object the decoder takes nothing else for a key
		if err := p.key(key); err != nil {
			return err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return badJSON(err)
		}
		if err := p.setJSON(key, value); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // the }
		return badJSON(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("the JSON object is not the end of the command")
	}
	return nil
}

func badJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("bad JSON: it ends in the middle")
	}
	return invalid("bad JSON: %v", err)
}

// setJSON takes the value of one key.
func (p *parser) setJSON(key string, value json.RawMessage) error {
	var name string
	var names []string
	switch key {
	case "name":
		if err := decode(key, value, &name, "a string"); err != nil {
			return err
		}
		p.names = append(p.names, name)
	case "names":
		if err := decode(key, value, &names, "an array of strings"); err != nil {
			return err
		}
		p.names = append(p.names, names...)
	case "to":
		return decode(key, value, &p.to, "a string")
	case "description":
		return decode(key, value, &p.description, "a string")
	case "discard":
		return decode(key, value, &p.discard, "true or false")
	case "force":
		return decode(key, value, &p.force, "true or false")
	case "files":
		return decode(key, value, &p.files, "an array of strings")
	case "memory":
		return decode(key, value, &p.memory, "true or false")
	case "hooks":
		return decode(key, value, &p.hooks, "an array of strings")
	}
	return nil
}

// decode refuses null too: as files, it must not come to mean all.
func decode(key string, value json.RawMessage, into any, want string) error {
	if err := json.Unmarshal(value, into); err != nil || string(value) == "null" {
		return invalid("%s is %s, not %s", key, want, value)
	}
	return nil
}
