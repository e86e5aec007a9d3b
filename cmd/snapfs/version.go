package main

// Which build this is, as an operator and the log name it.

import (
	"debug/elf"
	"encoding/binary"
	"runtime/debug"
	"strings"
)

// version is what the Go toolchain noted about the build. Where that is no more than that somebody made it of files of his own, an
// id of the program's content tells such builds apart: "devel+9CaVVocQRcGz".
func version() string {
	v := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		v = info.Main.Version
	}
	id := contentID()
	switch {
	case id == "":
		return v
	case v == "(devel)":
		return "devel+" + id
	case strings.HasSuffix(v, "+dirty"):
		return v + "." + id
	}
	return v
}

// contentID is of this program's content: the beginning of the last part of Go's build id, which is a note in it. Empty: there is none.
func contentID() string {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	s := f.Section(".note.go.buildid")
	if s == nil {
		return ""
	}
	const header = 16 // three lengths and kinds of 4 bytes, and a name of as many
	note, err := s.Data()
	if err != nil || len(note) < header {
		return ""
	}
	id := string(note[header:min(header+uint64(binary.NativeEndian.Uint32(note[4:])), uint64(len(note)))])
	id = id[strings.LastIndex(id, "/")+1:]
	return id[:min(len(id), 12)]
}
