package layer

// Did the host go down since the journal was written? If not, what was ever written to data files is in its page cache or on
// disk: it is as new as any record of the journal, or newer.

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// hostRun is one run of a host's kernel, with the device on which it had the store: a copy that was made of a disk underneath
// its file system lacks what was not written to it. Zero: not known.
type hostRun [24]byte

// bootFile has a number that the kernel draws when it starts. Only tests change it, while no store is open.
var bootFile = "/proc/sys/kernel/random/boot_id"

// thisRun is the present one for a store.
func thisRun(dir string) (r hostRun) {
	text, err := os.ReadFile(bootFile)
	if err != nil {
		return r
	}
	id, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	var st unix.Stat_t
	if err != nil || len(id) != 16 || unix.Stat(dir, &st) != nil {
		return r
	}
	copy(r[:], id)
	binary.LittleEndian.PutUint64(r[16:], st.Dev)
	return r
}

// hostWentOn says whether the host is known not to have gone down since the journal was written. Of layers that could not be
// flushed, the kernel may have let go of what was written to them: where there are any, it counts as not known.
func (o *offline) hostWentOn() bool {
	r := o.catalog.store
	id, err := hex.DecodeString(r.Journal)
	if err != nil || len(id) != 16 || !r.JournalMark || r.JournalKept {
		return false
	}
	mark, err := openMark(o.dir, 0)
	if err != nil {
		return false
	}
	defer mark.close()
	m, _, err := mark.read([16]byte(id))
	return err == nil && m.run != hostRun{} && m.run == thisRun(o.dir)
}
