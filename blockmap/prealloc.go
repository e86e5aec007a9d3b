package blockmap

// This file sees to it that Badger's files have room. It maps them and writes through the mapping, where a full disk is not
// an error but the death of the process (SIGBUS). So what of a file will be written is allocated as soon as it is there.

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What is written of a file: a memtable's log is replaced when it has memTableSize; as values are inline, a value log has its
// header only, and the list of what can be discarded in value logs is small.
var allocations = map[string]int64{
	"*.mem":   memTableSize + 1<<20,
	"*.vlog":  1 << 16,
	"DISCARD": 1 << 20,
}

// preallocEvery is after how many committed bytes the writer looks for files that Badger has made since.
const preallocEvery = 1 << 20

// preallocate allocates what will be written of files not in done, and puts them there. Where there is no room, or the file
// system can't, it tries again the next time.
func preallocate(dir string, done map[string]bool) {
	for pattern, size := range allocations {
		names, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, name := range names {
			if !done[name] && allocate(name, size) == nil {
				done[name] = true
			}
		}
	}
}

func allocate(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, min(size, info.Size()))
}
