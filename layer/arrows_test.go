package layer

// Which package may import which: the arrows of the design.

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/snapfs/snapfs/"

func TestImportArrows(t *testing.T) {
	siblings := map[string][]string{
		"blockmap":   nil,
		"quiesce":    nil,
		"layer":      {"blockmap"},
		"fs":         {"layer"},
		"cmd/snapfs": {"fs", "layer", "quiesce"},
		"bench":      {"layer", "blockmap", "integration/daemon"},
	}
	outside := map[string][]string{ // import paths that begin so, and who alone may have them
		"github.com/dgraph-io/badger": {"blockmap"},
		"github.com/hanwen/go-fuse":   {"fs", "bench/loopback"}, // the latter is what fs is compared with
	}
	packages := imports(t)
	for _, name := range []string{"blockmap", "layer", "fs", "cmd/snapfs"} {
		require.Contains(t, packages, name)
	}
	for name, imported := range packages {
		for _, other := range imported {
			if sibling, ok := strings.CutPrefix(other, module); ok {
				allowed := siblings[name]
				inside, _, _ := strings.Cut(sibling, "/")
				require.True(t, slices.Contains(allowed, sibling) || strings.HasPrefix(name, inside+"/") && inside == "integration",
					"%s imports %s, and may import only %v of the module", name, sibling, allowed)
			}
			for prefix, owners := range outside {
				if strings.HasPrefix(other, prefix) {
					require.Contains(t, owners, name, "only %v may import %s", owners, other)
				}
			}
		}
	}
}

// imports lists what each package of the module imports, its tests left out.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, path.Clean(module)+"/...").Output()
	require.NoError(t, err)
	packages := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		packages[strings.TrimPrefix(words[0], module)] = words[1:]
	}
	return packages
}
