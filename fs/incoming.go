package fs

// How to start a machine with the memory of a snapshot.

import (
	"path/filepath"
	"strings"

	"github.com/snapfs/snapfs/layer"
)

// incoming is the argument of QEMU's -incoming, fit to be pasted into a shell, that starts a machine from a snapshot's
// memory. QEMU gives what follows exec: to a shell of its own.
func (s *server) incoming(vm *layer.VM, snapshot string) string {
	path := filepath.Join(s.options.Mountpoint, vm.Name(), layer.SnapDir, snapshot, memoryName)
	return shellQuote("exec:cat " + shellQuote(path))
}

// shellQuote writes a text as one word of a shell.
func shellQuote(text string) string {
	const plain = "/.-_+,:=%^"
	special := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(plain, r))
	}
	if text != "" && !strings.ContainsFunc(text, special) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
