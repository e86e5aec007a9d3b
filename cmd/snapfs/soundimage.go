package main

// Whether a disk image is whole. qemu-img reads zeros, and no error, where a truncated image has lost its data.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// How `qemu-img check` ends when nothing is wrong with the data.
const (
	checkLeaks       = 3  // space is lost, nothing else
	checkUnsupported = 63 // the format has nothing to check
)

// checkImages refuses images, the first of which builds on the second and so on, that are damaged or cut off.
func checkImages(ctx context.Context, chain []imageInfo) error {
	for _, image := range chain {
		args := []string{"check", "-f", image.Format, "--", localFile(image.Name)}
		err := runQemuImg(ctx, args, io.Discard)
		var exit *exec.ExitError
		if errors.As(err, &exit) && (exit.ExitCode() == checkLeaks || exit.ExitCode() == checkUnsupported) {
			continue
		}
		if err != nil {
			return fmt.Errorf("image %s is damaged or incomplete: %w", image.Name, err)
		}
	}
	return checkExtents(ctx, chain)
}

// checkExtents looks for data beyond the end of an image's file: not every format's own check does.
func checkExtents(ctx context.Context, chain []imageInfo) error {
	var out bytes.Buffer
	top := chain[0]
	if err := runQemuImg(ctx, []string{"map", "--output=json", "-f", top.Format, "--", localFile(top.Name)}, &out); err != nil {
		return err
	}
	var extents []struct {
		Length int64  `json:"length"`
		Depth  int    `json:"depth"`
		Offset *int64 `json:"offset"` // in the file of the image at that depth
	}
	if err := json.Unmarshal(out.Bytes(), &extents); err != nil {
		return fmt.Errorf("qemu-img map makes no sense: %w", err)
	}
	ends := make([]int64, len(chain))
	for _, e := range extents {
		if e.Offset != nil && e.Depth < len(ends) {
			ends[e.Depth] = max(ends[e.Depth], *e.Offset+e.Length)
		}
	}
	for i, image := range chain {
		st, err := os.Stat(image.Name)
		if err == nil && st.Mode().IsRegular() && roundUp(st.Size(), sector) < ends[i] {
			return fmt.Errorf("image %s is incomplete: it has %d bytes, and data up to %d", image.Name, st.Size(), ends[i])
		}
	}
	return nil
}
