package main

// The control files of a mount, from the user's side.

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// place is a directory with control files: that of a VM, or the mount itself.
type place struct{ dir string }

// openPlace checks that a path is a VM's directory or a mount.
func openPlace(path string) (place, error) {
	p := place{dir: filepath.Clean(path)}
	var fs unix.Statfs_t
	err := unix.Statfs(path, &fs)
	switch {
	case isGone(err):
		return p, daemonGone(path)
	case err != nil:
		return p, fmt.Errorf("%s: %w", path, err)
	}
	_, err = os.Lstat(p.control("status"))
	switch {
	case fs.Type == unix.FUSE_SUPER_MAGIC && errors.Is(err, unix.EACCES):
		return p, fmt.Errorf("%s: %w", path, unix.EACCES)
	case fs.Type != unix.FUSE_SUPER_MAGIC || err != nil:
		return p, fmt.Errorf("%s is neither a VM's directory in a snapfs mount nor such a mount", path)
	}
	return p, nil
}

// isGone says whether an error is that of a mount that nobody serves any more: of who asks it, or was waiting for an answer.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

func daemonGone(path string) error {
	return fmt.Errorf("%s: the mount's daemon is gone; clear it with `snapfs umount` and mount again", path)
}

// openVM checks that a path is a VM's directory.
func openVM(path string) (place, error) {
	p, err := openPlace(path)
	if err != nil {
		return p, err
	}
	if !p.isVM() {
		return p, fmt.Errorf("%s is a whole mount: name the directory of a VM in it", path)
	}
	return p, nil
}

// isVM tells a VM's directory from the mount's.
func (p place) isVM() bool {
	_, err := os.Lstat(p.control("create"))
	return err == nil
}

// name is what a VM is called: like its directory.
func (p place) name() string {
	abs, err := filepath.Abs(p.dir)
	if err != nil {
		return p.dir
	}
	return filepath.Base(abs)
}

func (p place) control(name string) string { return filepath.Join(p.dir, layer.SnapDir, name) }

// read gives the content of a control file for reading.
func (p place) read(name string) ([]byte, error) {
	text, err := readControl(p.control(name))
	if isGone(err) {
		err = daemonGone(p.dir)
	}
	return text, err
}

// readControl reads a control file in as few requests as it takes: a worker's death between two of them could have them
// tell of two different moments.
func readControl(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readText(f)
}

func readText(f *os.File) ([]byte, error) {
	const mostAtOnce = 1 << 20 // of a request
	return io.ReadAll(bufio.NewReaderSize(f, mostAtOnce))
}

// snapshots reads the list.
func (p place) snapshots() ([]listed, error) {
	text, err := p.read("list")
	if err != nil {
		return nil, err
	}
	var list []listed
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", p.control("list"), err)
	}
	return list, nil
}

// previewed is the name of the snapshot under preview, empty without one.
func (p place) previewed() (string, error) {
	text, err := p.read("status")
	if err != nil {
		return "", err
	}
	var status layer.VMStatus
	if err := json.Unmarshal(text, &status); err != nil {
		return "", fmt.Errorf("%s: %w", p.control("status"), err)
	}
	return orEmpty(status.Preview), nil
}

// listed is a snapshot as `list` shows it; the list of a mount says whose it is.
type listed struct {
	VM string `json:"vm"`
	layer.SnapshotInfo
}

// command is what is written to a control file.
type command struct {
	Name        string   `json:"name,omitempty"`
	Names       []string `json:"names,omitempty"`
	To          string   `json:"to,omitempty"`
	Description string   `json:"description,omitempty"`
	Files       []string `json:"files,omitempty"`
	Discard     bool     `json:"discard,omitempty"`
	Force       bool     `json:"force,omitempty"`
	Memory      bool     `json:"memory,omitempty"`
}

// answer is what is read back.
type answer struct {
	Snapshot *layer.SnapshotInfo `json:"snapshot"`
	Kept     *string             `json:"kept"`
	Reset    bool                `json:"reset"`
	Running  *bool               `json:"running"`
	Incoming *string             `json:"incoming"`
	Warning  *string             `json:"warning"`
	PausedMS int64               `json:"paused_ms"`
	Message  string              `json:"message"`
	Error    *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`

	text []byte // as it came
}

// do gives a control file one command and waits for its answer.
func (p place) do(name string, c command) (answer, error) {
	line, err := json.Marshal(c)
	if err != nil {
		return answer{}, err
	}
	return p.tell(name, line)
}

// tell gives a control file a text and waits for its answer. A refusal comes back in the daemon's words.
func (p place) tell(name string, text []byte) (answer, error) {
	f, err := os.OpenFile(p.control(name), os.O_RDWR, 0)
	if isGone(err) {
		return answer{}, daemonGone(p.dir)
	}
	if err != nil {
		return answer{}, err
	}
	defer f.Close()
	_, doErr := f.Write(text)
	reply, readErr := readAnswer(f)
	switch {
	case isGone(doErr) || isGone(readErr):
		return reply, fmt.Errorf("%w; whether this was done shows then", daemonGone(p.dir))
	case doErr != nil && reply.Error != nil && reply.Error.Message != "":
		return reply, &refusal{text: reply.Error.Message, cause: doErr}
	case doErr != nil:
		return reply, doErr
	case readErr != nil:
		return reply, fmt.Errorf("it is done, but the answer can't be read: %w", readErr)
	}
	return reply, nil
}

// refusal is an error in the words of the daemon, or of a program, that still knows its errno or exit code.
type refusal struct {
	text  string
	cause error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.cause }

func readAnswer(f *os.File) (answer, error) {
	text, err := readText(f)
	if err != nil {
		return answer{}, err
	}
	a := answer{text: text}
	return a, json.Unmarshal(text, &a)
}
