package blockmap

// This file holds the writes of a transaction before they are committed.

import (
	"slices"
	"sort"
	"strings"
)

const (
	// maxValue is the size from which Badger would move a value to its value log, which nothing here ever cleans.
	maxValue = 1 << 20 // bytes

	// entryOverhead is counted for each entry beside key and value. Badger allows one entry for each 96 bytes or so of its
	// limit; counting more than that for each keeps both of its limits by keeping one.
	entryOverhead = 128 // bytes
)

// pending is a buffer of writes, ordered by key only when somebody scans. The zero value is empty.
type pending struct {
	values   map[string][]byte // nil: the key is deleted
	sorted   []string          // keys, ascending
	unsorted []string          // keys not yet in sorted
	size     int               // bytes; an upper bound, overwritten entries count again
	oversize bool              // some value is of maxValue or more
}

// entry is one write.
type entry struct {
	key   string
	value []byte // nil: deleted
}

// put notes a write. It keeps value.
func (p *pending) put(key string, value []byte) {
	if p.values == nil {
		p.values = make(map[string][]byte)
	}
	if _, ok := p.values[key]; !ok {
		p.unsorted = append(p.unsorted, key)
	}
	p.values[key] = value
	p.size += len(key) + len(value) + entryOverhead
	p.oversize = p.oversize || len(value) >= maxValue
}

// merge adds the writes of o, which are newer.
func (p *pending) merge(o *pending) {
	for key, value := range o.values {
		if _, ok := p.values[key]; !ok {
			p.unsorted = append(p.unsorted, key)
		}
		if p.values == nil {
			p.values = make(map[string][]byte, len(o.values))
		}
		p.values[key] = value
	}
	p.size += o.size
}

// keys returns the keys that begin with prefix and are not below from, ascending.
func (p *pending) keys(prefix, from string) []string {
	p.sort()
	i := sort.SearchStrings(p.sorted, from)
	j := i
	for j < len(p.sorted) && strings.HasPrefix(p.sorted[j], prefix) {
		j++
	}
	return p.sorted[i:j]
}

func (p *pending) sort() {
	if len(p.unsorted) == 0 {
		return
	}
	slices.Sort(p.unsorted)
	p.sorted = mergeSorted(p.sorted, p.unsorted)
	p.unsorted = nil
}

// mergeSorted merges two ascending lists; what is in both is there once.
func mergeSorted(a, b []string) []string {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	out := make([]string, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := strings.Compare(a[0], b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
