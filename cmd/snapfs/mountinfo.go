package main

// What is mounted where, from /proc/self/mountinfo: asking the mount itself would not do for one whose daemon is dead.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fsType is what the kernel calls our mounts.
const fsType = "fuse.snapfs"

// mountEntry is one line of mountinfo.
type mountEntry struct {
	id, parent   int
	major, minor uint32
	point        string
	fsType       string
	source       string // of ours: the store
}

// mountTable reads what is mounted, older mounts first.
func mountTable() ([]mountEntry, error) { return mountTableOf("/proc/self") }

// mountTableOf is mountTable as the process /proc/PID sees it.
func mountTableOf(proc string) ([]mountEntry, error) {
	f, err := os.Open(proc + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

// parseMountinfo reads lines such as
//
//	36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/root rw,errors=continue
//
// where before the dash any number of optional fields may stand.
func parseMountinfo(r io.Reader) ([]mountEntry, error) {
	var table []mountEntry
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 2 {
			return nil, fmt.Errorf("mountinfo has a line that makes no sense: %q", lines.Text())
		}
		m := mountEntry{point: unescape(left[4]), fsType: right[0], source: unescape(right[1])}
		m.id, _ = strconv.Atoi(left[0])
		m.parent, _ = strconv.Atoi(left[1])
		if _, err := fmt.Sscanf(left[2], "%d:%d", &m.major, &m.minor); err != nil {
			return nil, fmt.Errorf("mountinfo has a device that makes no sense: %q", left[2])
		}
		table = append(table, m)
	}
	return table, lines.Err()
}

// unescape undoes the kernel's \040 for blanks and the like.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// mountAt returns what is mounted at a path, the topmost if several are, and nil if nothing is.
func mountAt(path string) (*mountEntry, error) {
	point, err := resolve(path)
	if err != nil {
		return nil, err
	}
	return mountAtPoint(point)
}

// mountAtPoint is mountAt for a path that resolve gave before. It does not touch what is mounted there: the daemon
// must not ask its own mount.
func mountAtPoint(point string) (*mountEntry, error) {
	table, err := mountTable()
	if err != nil {
		return nil, err
	}
	for i := len(table) - 1; i >= 0; i-- {
		if table[i].point == point {
			return &table[i], nil
		}
	}
	return nil, nil
}

// mountAround returns the mount that a path, which resolve gave, lies in.
func mountAround(path string) (*mountEntry, error) {
	for ; ; path = filepath.Dir(path) {
		m, err := mountAtPoint(path)
		if err != nil || m != nil || path == "/" {
			return m, err
		}
	}
}

// resolveMissing is resolve for a path of which the last elements may not exist yet.
func resolveMissing(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(abs); !errors.Is(err, os.ErrNotExist) {
		return resolve(abs)
	}
	dir, err := resolveMissing(filepath.Dir(abs))
	return filepath.Join(dir, filepath.Base(abs)), err
}

// resolve makes a path absolute and free of links. The last element may be a mountpoint that does not answer: it is not
// looked at.
func resolve(path string) (string, error) {
	const links = 40 // as many as the kernel follows
	for range links {
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return "", err
		}
		point := filepath.Join(dir, filepath.Base(abs))
		if m, err := mountAtPoint(point); err != nil || m != nil {
			return point, err
		}
		if path, err = os.Readlink(point); err != nil { // it is no link
			return point, nil
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
	}
	return "", &os.PathError{Op: "resolve", Path: path, Err: unix.ELOOP}
}
