package main

// qemu-img, which knows the formats of other hypervisors.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const qemuImg = "qemu-img"

// formats are those of qemu-img by the endings of files. An ending that is not here says nothing: .img can be anything.
var formats = map[string]string{
	".raw": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vdi": "vdi", ".vhdx": "vhdx", ".vhd": "vpc",
}

// formatByName is the format that a file's name promises, "" if it promises none.
func formatByName(path string) string { return formats[strings.ToLower(filepath.Ext(path))] }

// imageInfo is what qemu-img says about an image. Size: bytes that a guest sees.
type imageInfo struct {
	Name   string `json:"filename"`
	Format string `json:"format"`
	Size   int64  `json:"virtual-size"`
}

// inspectImage asks qemu-img what an image is, and those that it builds on.
func inspectImage(ctx context.Context, path string) ([]imageInfo, error) {
	args := []string{"info", "--output=json", "--backing-chain"}
	if format := formatByName(path); format != "" {
		args = append(args, "-f", format)
	}
	var out bytes.Buffer
	if err := runQemuImg(ctx, append(args, "--", localFile(path)), &out); err != nil {
		return nil, err
	}
	var chain []imageInfo
	if err := json.Unmarshal(out.Bytes(), &chain); err != nil || len(chain) == 0 {
		return nil, fmt.Errorf("qemu-img info makes no sense: %q", oneLine(out.String()))
	}
	return chain, nil
}

// localFile keeps qemu-img from taking a path such as "nbd:host" for something else.
func localFile(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "./" + path
}

// convertImage runs qemu-img convert with a bar that follows it.
func (a *app) convertImage(ctx context.Context, what string, args ...string) error {
	bar := a.newProgress(what)
	defer bar.finish()
	return runQemuImg(ctx, append([]string{"convert", "-p", "-S", "4k"}, args...), percentReader{bar.set})
}

// runQemuImg runs qemu-img to its end, or ours. Its own last words become the error.
func runQemuImg(ctx context.Context, args []string, stdout io.Writer) error {
	var words bytes.Buffer
	cmd := exec.CommandContext(ctx, qemuImg, args...)
	cmd.Stdout, cmd.Stderr = stdout, &words
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	runtime.LockOSThread() // it dies with the thread that started it
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("qemu-img is missing: install the package qemu-utils")
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil && words.Len() > 0:
		return &refusal{text: firstLines(words.String()), cause: err}
	case err != nil:
		return fmt.Errorf("qemu-img: %w", err)
	}
	return nil
}

// firstLines makes one line of the first two: of a damaged image qemu-img can say thousands.
func firstLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if more := len(lines) - 2; more > 0 {
		lines = append(lines[:2], fmt.Sprintf("and %d lines more", more))
	}
	return oneLine(strings.Join(lines, "\n"))
}

// percentReader reads the "    (12.34/100%)\r" that qemu-img writes. It writes each of them in one go.
type percentReader struct{ set func(percent float64) }

func (p percentReader) Write(text []byte) (int, error) {
	i := bytes.LastIndexByte(text, '(')
	var percent float64
	if i >= 0 {
		if n, _ := fmt.Sscanf(string(text[i:]), "(%f/100%%)", &percent); n == 1 {
			p.set(percent)
		}
	}
	return len(text), nil
}
