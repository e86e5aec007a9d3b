package main

// Who keeps a mount busy.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holder is something in the mount that a process, or the kernel, has in use.
type holder struct {
	pid   int    // 0: the kernel
	who   string // the process's name, or the loop device
	path  string
	inode uint64
	write bool // open for writing
}

func (h holder) String() string {
	if h.pid == 0 {
		return fmt.Sprintf("%s (%s)", h.path, h.who)
	}
	return fmt.Sprintf("%s (%s, pid %d)", h.path, h.who, h.pid)
}

// showHolders lists a few of them in a line.
func showHolders(held []holder) string {
	const few = 5
	var parts []string
	for i, h := range held {
		if i == few {
			parts = append(parts, fmt.Sprintf("and %d more", len(held)-few))
			break
		}
		parts = append(parts, h.String())
	}
	return strings.Join(parts, ", ")
}

// holders finds who uses a mount.
func holders(m mountEntry) []holder {
	held := append(processHolders(m), loopHolders(m)...)
	return append(held, mountHolders(m)...)
}

// processHolders finds the processes that use a mount, as far as the caller may look into them. It asks the kernel
// only, never the mount, whose daemon may be dead or the caller itself.
func processHolders(m mountEntry) []holder {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	var held []holder
	for _, proc := range processes {
		held = append(held, processHolds(proc, m)...)
	}
	return held
}

// processHolds looks at the open files, directories and mappings of a process, given as /proc/PID. What a process
// has in use several times counts once.
func processHolds(proc string, m mountEntry) []holder {
	pid, err := strconv.Atoi(filepath.Base(proc))
	if err != nil {
		return nil
	}
	links, _ := filepath.Glob(proc + "/fd/*")
	maps, _ := filepath.Glob(proc + "/map_files/*")
	links = append(append(links, maps...), proc+"/cwd", proc+"/root", proc+"/exe")
	var held []holder
	for _, link := range links {
		inode, ok := inodeIn(link, m)
		if !ok {
			continue
		}
		path, _ := os.Readlink(link)
		write := openForWriting(link)
		i := slices.IndexFunc(held, func(h holder) bool { return h.inode == inode })
		if i < 0 {
			held = append(held, holder{pid: pid, who: processName(proc), path: path, inode: inode, write: write})
			continue
		}
		held[i].write = held[i].write || write
	}
	return held
}

// inodeIn gives the inode a link of /proc leads to if that lies in the mount.
func inodeIn(link string, m mountEntry) (uint64, bool) {
	var st unix.Statx_t
	const cachedOnly = unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	if err := unix.Statx(unix.AT_FDCWD, link, cachedOnly, unix.STATX_INO, &st); err != nil {
		return 0, false
	}
	return st.Ino, st.Dev_major == m.major && st.Dev_minor == m.minor
}

// openForWriting reports how /proc/PID/fd/N was opened; mappings and directories are not known to write.
func openForWriting(link string) bool {
	if filepath.Base(filepath.Dir(link)) != "fd" {
		return false
	}
	info, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "fdinfo", filepath.Base(link)))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, _ := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

func processName(proc string) string {
	name, err := os.ReadFile(proc + "/comm")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(name))
}

// loopHolders finds loop devices over files of the mount: snapshots that someone mounted to look into them.
func loopHolders(m mountEntry) []holder {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var held []holder
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		path := strings.TrimSpace(string(backing))
		if strings.HasPrefix(path, m.point+"/") {
			device := filepath.Base(filepath.Dir(filepath.Dir(file)))
			held = append(held, holder{who: "/dev/" + device, path: path})
		}
	}
	return held
}

// mountHolders finds what is mounted inside the mount.
func mountHolders(m mountEntry) []holder {
	table, err := mountTable()
	if err != nil {
		return nil
	}
	var held []holder
	for _, other := range table {
		if other.parent == m.id {
			held = append(held, holder{who: other.fsType + " mounted there", path: other.point})
		}
	}
	return held
}

// heldElsewhere finds who uses a mount that is unmounted here, and where else it is mounted, in this mount namespace or in
// others, that of a container for example: each keeps its daemon running. Of every namespace it names one process. The
// kernel gives the number of what is over to the next mount: whoever holds that is none of it.
func heldElsewhere(m mountEntry) []holder {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	var held []holder
	seen := make(map[string]bool)
	for _, proc := range processes {
		namespace, err := os.Readlink(proc + "/ns/mnt")
		if err != nil || seen[namespace] {
			continue
		}
		seen[namespace] = true
		table, _ := mountTableOf(proc)
		for _, other := range table {
			if other.major == m.major && other.minor == m.minor {
				if other.fsType != m.fsType || other.source != m.source {
					return nil
				}
				pid, _ := strconv.Atoi(filepath.Base(proc))
				held = append(held, holder{pid: pid, who: processName(proc), path: other.point})
			}
		}
	}
	return append(processHolders(m), held...)
}
