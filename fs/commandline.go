package fs

// Commands as a line of words.

import (
	"slices"
	"strings"
)

// word is a word of a line. One whose text before the = is unquoted may be key=value: eq is where the = is, or -1.
type word struct {
	text string
	eq   int
}

// splitWords splits a line at blanks. Double quotes hold blanks together, anywhere in a word; in them \" and \\
// stand for " and \.
func splitWords(line string) ([]word, error) {
	var words []word
	for i := 0; ; {
		for i < len(line) && isBlank(line[i]) {
			i++
		}
		if i == len(line) {
			return words, nil
		}
		w, end, err := nextWord(line, i)
		if err != nil {
			return nil, err
		}
		words = append(words, w)
		i = end
	}
}

// nextWord takes the word that starts at i, and returns where it ends.
func nextWord(line string, i int) (word, int, error) {
	var text strings.Builder
	eq, quoted, everQuoted := -1, false, false
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\n' || c == '\r':
			return word{}, 0, invalid("one write is one command: there is a line break in it")
		case c == '"':
			quoted, everQuoted = !quoted, true
			continue
		case !quoted && isBlank(c):
			return word{text.String(), eq}, i, nil
		case quoted && c == '\\':
			if i++; i == len(line) || line[i] != '"' && line[i] != '\\' {
				return word{}, 0, invalid(`in quotes \ comes only before " and \`)
			}
			c = line[i]
		case c == '=' && !everQuoted && eq < 0:
			eq = text.Len()
		}
		text.WriteByte(c)
	}
	if quoted {
		return word{}, 0, invalid("a double quote is not closed")
	}
	return word{text.String(), eq}, i, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// parseLine parses `NAME [NAME…] [key=value…]`.
func (p *parser) parseLine(line string) error {
	words, err := splitWords(line)
	if err != nil {
		return err
	}
	positional := 0
	for _, w := range words {
		if w.isKey(positional == 0) {
			err = p.set(w.text[:w.eq], w.text[w.eq+1:])
		} else {
			err = p.positional(positional, w.text)
			positional++
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isKey says whether a word is key=value. A name may have a = in it, so the first word is one only if the key is
// known, and later ones always.
func (w word) isKey(first bool) bool {
	if w.eq < 0 {
		return false
	}
	_, known := keys[w.text[:w.eq]]
	return known || !first
}

// positional takes a word without a key: a name, or where two belong together the new one.
func (p *parser) positional(i int, text string) error {
	switch {
	case i == 0:
		if err := p.key("name"); err != nil {
			return err
		}
	case i == 1 && slices.Contains(keys["to"], p.which):
		return p.set("to", text)
	case p.which != controlDelete:
		return invalid("%q is no key=value; a value with spaces goes in double quotes", text)
	}
	p.names = append(p.names, text)
	return nil
}

// set takes one key=value.
func (p *parser) set(key, value string) error {
	if err := p.key(key); err != nil {
		return err
	}
	var err error
	switch key {
	case "name":
		p.names = append(p.names, value)
	case "names":
		p.names, err = splitList(key, value)
	case "to":
		p.to = value
	case "description":
		p.description = value
	case "discard":
		p.discard, err = parseBool(key, value)
	case "force":
		p.force, err = parseBool(key, value)
	case "files":
		p.files, err = splitList(key, value)
	case "memory":
		p.memory, err = parseBool(key, value)
	case "hooks":
		p.hooks, err = splitList(key, value)
	}
	return err
}

// splitList splits at commas. Names with commas need JSON.
func splitList(key, value string) ([]string, error) {
	list := strings.Split(value, ",")
	for _, name := range list {
		if name == "" {
			return nil, invalid("%s: there is an empty name in %q", key, value)
		}
	}
	return list, nil
}

func parseBool(key, value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, invalid("%s is true or false, not %q", key, value)
}
