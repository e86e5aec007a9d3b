// Package bench measures what must not get lost: `make bench`, or `go test -bench=. ./bench` for some of it.
//
// Whatever is compared is measured in turns within one run, and what counts is the median over the rounds of each
// round's ratio: a machine that others use as well slows both sides of a pair, and everything here runs before them.
// CPU time per operation tells more than operations per second where the two differ. Absolute figures are for
// orientation. Files lie in $TMPDIR, which should be on a disk and not a tmpfs. With -short all of it takes less than a minute and
// says less. docs/performance.md has what came out, and where the time goes.
package bench

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// priority is the niceness of all that is measured, and of what measures it.
const priority = -15

// TestMain runs everything in a mount namespace of its own.
func TestMain(m *testing.M) {
	daemon.Main(m, func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, priority) })
}
