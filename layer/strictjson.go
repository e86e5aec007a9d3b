package layer

// Reading a document that people write: strictly, and with errors that name the key in words of theirs.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// readStrictly reads a JSON object over a struct. Beyond what encoding/json refuses: keys that are unknown, in other
// letter case or given twice, null, and whatever follows the object.
func readStrictly(document []byte, into any) error {
	if !utf8.Valid(document) {
		return errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(document))
	var syntax *json.SyntaxError
	switch err := d.Decode(new(json.RawMessage)); {
	case errors.As(err, &syntax):
		return fmt.Errorf("not a JSON document: wrong from byte %d on, %q", syntax.Offset, excerpt(document[syntax.Offset-1:]))
	case err != nil:
		return errors.New("not a JSON document: it ends too early")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	d = json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	return readValue(d, "", reflect.ValueOf(into).Elem())
}

// excerpt is the beginning of where a document goes wrong.
func excerpt(rest []byte) string {
	text := []rune(string(rest))
	return string(text[:min(len(text), 20)])
}

// readValue reads the next value. The document is known to be JSON.
func readValue(d *json.Decoder, key string, into reflect.Value) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch {
	case into.Kind() == reflect.Struct && token == json.Delim('{'):
		return readObject(d, key, into)
	case into.Kind() == reflect.Slice && token == json.Delim('['):
		return readList(d, key, into)
	case into.Kind() == reflect.Int:
		if number, ok := token.(json.Number); ok {
			if n, err := number.Int64(); err == nil {
				into.SetInt(n)
				return nil
			}
		}
	default:
		if value := reflect.ValueOf(token); value.IsValid() && value.Type() == into.Type() {
			into.Set(value)
			return nil
		}
	}
	return wrong(key, "it is %s", kindInWords(into.Kind()))
}

func readObject(d *json.Decoder, key string, into reflect.Value) error {
	given := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name := token.(string)
		full := strings.TrimPrefix(key+"."+name, ".")
		field, names := fieldNamed(into, name)
		switch {
		case !field.IsValid():
			return wrong(full, "no such key; there are %s", strings.Join(names, ", "))
		case given[name]:
			return wrong(full, "given twice")
		}
		given[name] = true
		if err := readValue(d, full, field); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// fieldNamed finds a field by its name in JSON; names are all that there are.
func fieldNamed(object reflect.Value, name string) (field reflect.Value, names []string) {
	for i := range object.NumField() {
		tag := object.Type().Field(i).Tag.Get("json")
		names = append(names, tag)
		if tag == name {
			field = object.Field(i)
		}
	}
	return field, names
}

func readList(d *json.Decoder, key string, into reflect.Value) error {
	list := reflect.MakeSlice(into.Type(), 0, 0)
	for d.More() {
		item := reflect.New(into.Type().Elem()).Elem()
		if err := readValue(d, fmt.Sprintf("%s[%d]", key, list.Len()), item); err != nil {
			return err
		}
		list = reflect.Append(list, item)
	}
	into.Set(list)
	_, err := d.Token()
	return err
}

func wrong(key, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if key != "" {
		what = key + ": " + what
	}
	return errors.New(what)
}

func kindInWords(kind reflect.Kind) string {
	switch kind {
	case reflect.Struct:
		return "an object, {…}"
	case reflect.Slice:
		return `a list of texts, ["…", …]`
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	}
	return `a text, "…"`
}
