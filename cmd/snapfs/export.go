package main

// snapfs export: a VM's file, as it is or as it was in a snapshot, becomes an image of any format.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) exportCmd() *cobra.Command {
	var format string
	var force bool
	cmd := &cobra.Command{
		Use:   "export VM/FILE[@NAME] IMAGE",
		Short: "Write a file of a VM, or of a snapshot, to a disk image",
		Long: `Write a file of a VM to a disk image: as it was in the snapshot NAME, or as it is, through a snapshot that is taken for
that and deleted again, so that a running guest may write on. The format is -O, else what the ending of IMAGE says:
.qcow2 .vmdk .vdi .vhdx .vhd .raw .img. The image appears when it is complete: with mode 0600, or the owner and mode of
the file it replaces.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := exportFormat(args[1], format)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if err := a.export(ctx, args[0], args[1], format, force); err != nil {
				return fmt.Errorf("export %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "O", "", "the image's `FORMAT`, as qemu-img names it")
	cmd.Flags().BoolVar(&force, "force", false, "replace IMAGE if it exists")
	return cmd
}

// exportFormat is the format asked for, or the one that the image's name promises.
func exportFormat(image, asked string) (string, error) {
	switch {
	case asked != "":
		return asked, nil
	case strings.EqualFold(filepath.Ext(image), ".img"):
		return "raw", nil
	case formatByName(image) != "":
		return formatByName(image), nil
	}
	return "", usagef("the ending of %q names no format: say it with -O", image)
}

func (a *app) export(ctx context.Context, source, image, format string, force bool) error {
	path, snapshot := splitSource(source)
	vm, err := openVM(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := checkTarget(image, force); err != nil {
		return err
	}
	a.clearParts(filepath.Dir(image))
	lock, err := a.clearTemporary(vm)
	if err != nil {
		return err
	}
	defer lock.Close()
	file := filepath.Base(path)
	if snapshot != "" {
		return a.exportFile(ctx, vm.control(filepath.Join(snapshot, file)), image, format, force)
	}
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	temporary, err := takeTemporary(vm, file)
	if errors.Is(err, syscall.EBUSY) { // a preview
		return a.exportQuiet(ctx, vm, path, image, format, force)
	}
	if err != nil {
		return err
	}
	err = a.exportTemporary(ctx, vm.control(filepath.Join(temporary, file)), image, format, force)
	return errors.Join(err, dropTemporary(vm, temporary))
}

// exportTemporary has the file open all the time, so that nobody takes its snapshot for a leftover.
func (a *app) exportTemporary(ctx context.Context, source, image, format string, force bool) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.exportFile(ctx, source, image, format, force)
}

func (a *app) exportFile(ctx context.Context, source, image, format string, force bool) error {
	return a.writeImage(ctx, source, image, format, force, func() error { return nil })
}

// writeImage writes a file to an image, which appears if the check that follows is content.
func (a *app) writeImage(ctx context.Context, source, image, format string, force bool, check func() error) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Dir(image), image, force, func(part *os.File) error {
		// Not through the page cache: nobody will read this again.
		err := a.convertImage(ctx, "exporting", "-T", "none", "-f", "raw", "-O", format, localFile(source), localFile(part.Name()))
		if err == nil && format == "raw" {
			err = part.Truncate(st.Size()) // qemu-img rounds it up
		}
		if err != nil {
			return err
		}
		return check()
	})
}

// exportQuiet exports a file as it is, which nobody may change meanwhile.
func (a *app) exportQuiet(ctx context.Context, vm place, path, image, format string, force bool) error {
	preview, err := vm.previewed()
	if err != nil {
		return err
	}
	before, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := refuseIfWritten(vm.dir, []os.FileInfo{before}); err != nil {
		return fmt.Errorf("the VM previews %s, so that no snapshot of it can be taken: %w", preview, err)
	}
	return a.writeImage(ctx, path, image, format, force, func() error {
		after, err := os.Stat(path)
		if err == nil && (!after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size()) {
			err = errors.New("somebody wrote to it meanwhile; stop the guest and export again")
		}
		return err
	})
}

// splitSource splits VM/FILE@NAME or VM@NAME. No name has an @ in it, but a directory further up may.
func splitSource(source string) (path, snapshot string) {
	dir, base := filepath.Split(source)
	file, snapshot, _ := strings.Cut(base, "@")
	return dir + file, snapshot
}

// takeTemporary takes a snapshot of one file, under a name that says what it is for.
func takeTemporary(vm place, file string) (name string, err error) {
	base := temporaryPrefix + time.Now().UTC().Format("20060102T150405Z")
	for n := 1; ; n++ {
		name = base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		_, err = vm.do("create", command{
			Name: name, Files: []string{file}, Description: temporaryText,
		})
		if !errors.Is(err, os.ErrExist) {
			return name, err
		}
	}
}

// dropTemporary deletes it, also after an interruption.
func dropTemporary(vm place, name string) error {
	if _, err := vm.do("delete", command{Name: name}); err != nil {
		return fmt.Errorf("the temporary snapshot %s is left: %w", name, err)
	}
	return nil
}
